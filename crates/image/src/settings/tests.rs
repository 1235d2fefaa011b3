//! Settings that are attached in every supported way. A server in this process has the pages of a
//! registry with the referrers API (distribution-spec v1.1).

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{artifact::SettingsArtifact, config::parse_shell, *};
use crate::{Digest, Image, ImageError, ImageStore, Platform, PullOptions, Reference, Step};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.apple.container.machine.config.v1+json";
const SCRIPT: &str = "application/vnd.apple.container.machine.setup.v1+sh";
const TYPE: &str = "application/vnd.apple.container.machine.v1";

#[derive(Clone)]
struct Page {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

/// Registry with the repository `app`.
struct TestRegistry {
    address: SocketAddr,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl TestRegistry {
    fn start() -> TestRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = TestRegistry {
            address: listener.local_addr().unwrap(),
            pages: Arc::default(),
            requests: Arc::default(),
        };
        let (pages, requests) = (registry.pages.clone(), registry.requests.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (pages, requests) = (pages.clone(), requests.clone());
                thread::spawn(move || answer(stream, &pages, &requests));
            }
        });
        registry
    }

    fn page(&self, path: &str, status: u16, headers: &str, body: &[u8]) {
        let page = Page {
            status,
            headers: headers.to_owned(),
            body: body.to_vec(),
        };
        let path = format!("/v2/app/{path}");
        self.pages.lock().unwrap().insert(path, page);
    }

    fn blob(&self, media_type: &str, body: &[u8]) -> Value {
        let digest = Digest::compute(body);
        self.page(&format!("blobs/{digest}"), 200, "", body);
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": body.len()})
    }

    fn manifest(&self, tag: &str, media_type: &str, document: &Value) -> Value {
        let body = document.to_string().into_bytes();
        let digest = Digest::compute(&body);
        let content = format!("Content-Type: {media_type}\r\n");
        for name in [tag, &digest.to_string()] {
            self.page(&format!("manifests/{name}"), 200, &content, &body);
        }
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": body.len()})
    }

    /// Adds an image as `tag`.
    fn image(&self, tag: &str) -> Value {
        let layer = b"a layer";
        let config = json!({
            "architecture": Platform::host().architecture, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [Digest::compute(layer).to_string()]},
        });
        let document = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()),
            "layers": [self.blob("application/vnd.oci.image.layer.v1.tar", layer)],
        });
        self.manifest(tag, MANIFEST, &document)
    }

    /// Adds an artifact with these layers and returns its entry for a list of referrers.
    fn artifact(&self, subject: &Value, kind: &str, created: &str, layers: &[Value]) -> Value {
        let document = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "subject": subject,
            "config": self.blob("application/vnd.oci.empty.v1+json", b"{}"), "layers": layers,
            "annotations": {"org.opencontainers.image.created": created},
        });
        let mut descriptor = self.manifest("-", MANIFEST, &document);
        descriptor["artifactType"] = json!(kind);
        descriptor
    }

    fn refer(&self, subject: &Value, referrers: &[Value]) {
        self.list(
            &format!("referrers/{}", subject["digest"].as_str().unwrap()),
            "",
            referrers,
        );
    }

    fn list(&self, path: &str, headers: &str, referrers: &[Value]) {
        let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": referrers});
        // go-containerregistry's registry sends lists with this type.
        let headers = format!("Content-Type: text/plain; charset=utf-8\r\n{headers}");
        self.page(path, 200, &headers, list.to_string().as_bytes());
    }

    fn reference(&self, tag: &str) -> Reference {
        Reference::parse(&format!("{}/app:{tag}", self.address), "docker.io").unwrap()
    }
}

fn answer(
    stream: TcpStream,
    pages: &Mutex<HashMap<String, Page>>,
    requests: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next()?.ok()?;
    while lines.next()?.ok().is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1)?.to_owned();
    let page = pages.lock().unwrap().get(&path).cloned();
    requests.lock().unwrap().push(path);
    let page = page.unwrap_or(Page {
        status: 404,
        headers: String::new(),
        body: b"404 page not found".to_vec(),
    });
    let head = format!(
        "HTTP/1.1 {} x\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n",
        page.status,
        page.body.len(),
        page.headers
    );
    (&stream).write_all(head.as_bytes()).ok()?;
    (&stream).write_all(&page.body).ok()
}

/// Client with an empty store.
struct Puller {
    store: ImageStore,
    _directory: TempDir,
}

impl Puller {
    fn new() -> Puller {
        let directory = tempfile::tempdir().unwrap();
        Puller {
            store: ImageStore::open(directory.path()).unwrap(),
            _directory: directory,
        }
    }

    /// Pulls an image. Also returns why its settings are unavailable, if they are.
    async fn pull(&self, reference: &Reference) -> Result<(Image, Option<String>), ImageError> {
        let unknown = Mutex::new(None);
        let listener = |progress: crate::Progress| {
            if let Step::SettingsUnavailable { reason } = progress.step {
                *unknown.lock().unwrap() = Some(reason);
            }
        };
        let (platform, options) = (Platform::host(), PullOptions::default());
        let pulled = self.store.pull(reference, &platform, &options, &listener);
        let image = pulled.await?;
        Ok((image, unknown.into_inner().unwrap()))
    }

    async fn settings(&self, reference: &Reference) -> MachineSettings {
        let (image, unknown) = self.pull(reference).await.unwrap();
        assert_eq!(unknown, None);
        image.settings
    }

    async fn error(&self, reference: &Reference) -> String {
        self.pull(reference).await.unwrap_err().to_string()
    }
}

fn zsh() -> MachineSettings {
    MachineSettings {
        shell: Some("/bin/zsh".to_owned()),
        setup_script: Some(b"echo \xff\n".to_vec()),
    }
}

fn zsh_layers(registry: &TestRegistry) -> [Value; 2] {
    [
        registry.blob(SCRIPT, b"echo \xff\n"),
        registry.blob(CONFIG, br#"{"schemaVersion": 1, "shell": "/bin/zsh"}"#),
    ]
}

#[tokio::test]
async fn an_artifact_on_a_later_page_is_found_and_kept_while_the_registry_fails() {
    let registry = TestRegistry::start();
    let image = registry.image("1");
    let artifact = registry.artifact(&image, TYPE, "", &zsh_layers(&registry));
    let signature = registry.blob("application/vnd.example.signature", b"signed");
    let other = registry.artifact(
        &image,
        "application/vnd.example.signature",
        "",
        &[signature],
    );
    let first = format!("referrers/{}", image["digest"].as_str().unwrap());
    let next = format!("Link: </v2/app/{first}?last=x>; rel=\"next\"\r\n");
    registry.list(&first, &next, &[other]);
    registry.list(&format!("{first}?last=x"), "", &[artifact]);
    let (reference, puller) = (registry.reference("1"), Puller::new());
    assert_eq!(puller.settings(&reference).await, zsh());

    let local = puller
        .store
        .find_local(&reference, &Platform::host())
        .unwrap();
    assert_eq!(local.unwrap().settings, zsh());
    let by_digest = format!(
        "{}/app@{}",
        registry.address,
        image["digest"].as_str().unwrap()
    );
    let by_digest = Reference::parse(&by_digest, "docker.io").unwrap();
    registry.requests.lock().unwrap().clear();
    assert_eq!(puller.settings(&by_digest).await, zsh());
    assert!(registry.requests.lock().unwrap().is_empty());

    registry.page(&first, 500, "", b"");
    let (kept, unknown) = puller.pull(&reference).await.unwrap();
    assert_eq!(kept.settings, zsh());
    assert!(unknown.unwrap().contains("500"));

    registry.refer(&image, &[]);
    assert_eq!(puller.settings(&reference).await, Default::default());
    let local = puller
        .store
        .find_local(&reference, &Platform::host())
        .unwrap();
    assert_eq!(local.unwrap().settings, Default::default());
}

#[tokio::test]
async fn settings_of_the_manifest_precede_those_of_the_index() {
    let registry = TestRegistry::start();
    let manifest = registry.image("manifest");
    let mut entry = manifest.clone();
    entry["platform"] =
        json!({"os": "linux", "architecture": Platform::host().architecture.as_str()});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    let index = registry.manifest("1", INDEX, &index);
    registry.refer(&manifest, &[]);
    let of_index = registry.artifact(&index, TYPE, "", &zsh_layers(&registry));
    registry.refer(&index, &[of_index]);
    let (reference, puller) = (registry.reference("1"), Puller::new());
    assert_eq!(puller.settings(&reference).await, zsh());

    let config = registry.blob(CONFIG, br#"{"schemaVersion": 1}"#);
    // Type that some tools write if none is given.
    let unnamed = "application/vnd.unknown.artifact.v1";
    let own = registry.artifact(&manifest, unnamed, "", &[config]);
    registry.refer(&manifest, &[own]);
    assert_eq!(puller.settings(&reference).await, Default::default());
}

#[tokio::test]
async fn without_the_referrers_api_a_tag_lists_artifacts() {
    let registry = TestRegistry::start();
    let image = registry.image("1");
    let (reference, puller) = (registry.reference("1"), Puller::new());
    assert_eq!(puller.settings(&reference).await, Default::default());
    let about_settings = |path: &String| path.contains("referrers") || path.contains("sha256-");
    let requests = registry.requests.lock().unwrap().clone();
    assert_eq!(
        requests.iter().filter(|path| about_settings(path)).count(),
        2
    );
    let digest = image["digest"].as_str().unwrap();
    let html = "Content-Type: text/html\r\n";
    registry.page(&format!("referrers/{digest}"), 200, html, b"<html>");

    let artifact = registry.artifact(&image, TYPE, "", &zsh_layers(&registry));
    registry.list(
        &format!("manifests/{}", digest.replace(':', "-")),
        "",
        &[artifact],
    );
    assert_eq!(puller.settings(&reference).await, zsh());
}

#[tokio::test]
async fn an_unanswered_search_is_reported() {
    for (status, message) in [(500, "500"), (401, "private")] {
        let registry = TestRegistry::start();
        let image = registry.image("1");
        let path = format!("referrers/{}", image["digest"].as_str().unwrap());
        registry.page(&path, status, "", b"");
        let (image, unknown) = Puller::new().pull(&registry.reference("1")).await.unwrap();
        assert_eq!(image.settings, Default::default());
        let reason = unknown.unwrap();
        assert!(reason.contains(message), "{reason}");
    }
}

#[tokio::test]
async fn a_next_page_on_another_server_is_not_followed() {
    let (registry, other) = (TestRegistry::start(), TestRegistry::start());
    let image = registry.image("1");
    let path = format!("referrers/{}", image["digest"].as_str().unwrap());
    let next = format!("Link: <http://{}/next>; rel=\"next\"\r\n", other.address);
    registry.list(&path, &next, &[]);
    let (_, unknown) = Puller::new().pull(&registry.reference("1")).await.unwrap();
    assert!(unknown.unwrap().contains("another server"));
    assert!(other.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn damaged_and_invalid_settings_are_an_error() {
    let registry = TestRegistry::start();
    let (reference, image) = (registry.reference("1"), registry.image("1"));
    let with = |layer: &Value| {
        let artifact = registry.artifact(&image, TYPE, "", std::slice::from_ref(layer));
        registry.refer(&image, &[artifact]);
    };
    let puller = Puller::new();
    let script = registry.blob(SCRIPT, b"true");
    let digest = script["digest"].as_str().unwrap();
    with(&script);
    registry.page(&format!("blobs/{digest}"), 200, "", b"evil");
    let error = puller.error(&reference).await;
    assert!(
        error.contains(digest) && error.contains("damaged"),
        "{error}"
    );
    registry.page(&format!("blobs/{digest}"), 404, "", b"");
    let error = puller.error(&reference).await;
    assert!(
        error.contains(digest) && error.contains("not found"),
        "{error}"
    );

    with(&json!({"mediaType": SCRIPT, "digest": digest, "size": (1 << 20) + 1}));
    let error = puller.error(&reference).await;
    assert!(
        error.contains("set-up script is larger than 1048576"),
        "{error}"
    );

    with(&registry.blob(CONFIG, br#"{"schemaVersion": 7, "shell": ["/bin/zsh"]}"#));
    let error = puller.error(&reference).await;
    assert!(error.contains("schema version 7"), "{error}");
    assert!(
        puller
            .store
            .find_local(&reference, &Platform::host())
            .unwrap()
            .is_none()
    );
}

#[test]
fn the_newest_artifact_is_chosen() {
    let registry = TestRegistry::start();
    let image = registry.image("1");
    let layers = zsh_layers(&registry);
    let parsed = |created: &str, kind: &str| {
        let descriptor = registry.artifact(&image, kind, created, &layers);
        let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
        let path = format!("/v2/app/manifests/{digest}");
        let body = registry.pages.lock().unwrap()[&path].body.clone();
        SettingsArtifact::parse(&body, digest, None)
            .unwrap()
            .unwrap()
    };
    let (old, new) = (
        // The later date, but the earlier time.
        parsed("2026-02-01T00:30:00+02:00", "a"),
        parsed("2026-01-31T23:00:00Z", "a"),
    );
    let (undated, other) = (parsed("yesterday", "a"), parsed("", "b"));
    let all = [old.clone(), undated.clone(), new.clone(), other.clone()];
    assert_eq!(SettingsArtifact::newest(all.to_vec()), Some(new));
    let last = if undated.digest > other.digest {
        &undated
    } else {
        &other
    };
    for pair in [[&undated, &other], [&other, &undated]] {
        let newest = SettingsArtifact::newest(pair.map(Clone::clone).to_vec());
        assert_eq!(newest.as_ref(), Some(last));
    }
    assert_eq!(
        SettingsArtifact::newest(vec![undated.clone(), old.clone()]),
        Some(old)
    );
}

#[test]
fn only_artifacts_of_this_image_with_settings_are_used() {
    let registry = TestRegistry::start();
    let image = registry.image("1");
    let digest = Digest::compute(b"the artifact");
    let parse = |layers: &[Value]| {
        let document = json!({
            "schemaVersion": 2, "subject": image, "layers": layers,
            "config": registry.blob("application/vnd.oci.empty.v1+json", b"{}"),
        });
        let subject = image["digest"].as_str().unwrap().parse().unwrap();
        let bytes = document.to_string().into_bytes();
        assert_eq!(
            SettingsArtifact::parse(&bytes, digest, Some(&digest)).unwrap(),
            None
        );
        SettingsArtifact::parse(&bytes, digest, Some(&subject))
    };
    let [script, config] = zsh_layers(&registry);
    let both = [script.clone(), config.clone()];
    assert!(
        parse(&both)
            .unwrap()
            .is_some_and(|it| it.config.is_some() && it.script.is_some())
    );
    assert!(
        parse(&[config])
            .unwrap()
            .is_some_and(|it| it.script.is_none())
    );
    assert!(
        parse(std::slice::from_ref(&script))
            .unwrap()
            .is_some_and(|it| it.config.is_none())
    );
    assert_eq!(parse(&[]).unwrap(), None);
    let twice = parse(&[script.clone(), script]).unwrap_err().to_string();
    assert!(twice.contains("several layers"), "{twice}");
}

#[test]
fn a_configuration_has_a_version_and_may_have_a_shell() {
    let parse = |text: &str| parse_shell(text.as_bytes());
    let with_more = r#"{"schemaVersion": 1, "shell": "/bin/zsh", "more": {}}"#;
    assert_eq!(parse(with_more).unwrap().as_deref(), Some("/bin/zsh"));
    assert_eq!(parse(r#"{"schemaVersion": 1}"#).unwrap(), None);
    assert_eq!(
        parse(r#"{"schemaVersion": 1, "shell": null}"#).unwrap(),
        None
    );
    for (text, message) in [
        (r#"{"schemaVersion": 2}"#, "schema version 2"),
        (r#"{"schemaVersion": "1"}"#, "schema version \"1\""),
        (r#"{"shell": "/bin/zsh"}"#, "schemaVersion"),
        (r#"{"schemaVersion": 1"#, "EOF"),
        (r#"{"schemaVersion": 1, "shell": 5}"#, "string"),
        (
            r#"{"schemaVersion": 1, "shell": "zsh"}"#,
            "not an absolute path",
        ),
        (
            r#"{"schemaVersion": 1, "shell": ""}"#,
            "not an absolute path",
        ),
        (
            r#"{"schemaVersion": 1, "shell": "/bin/zsh:x"}"#,
            "not an absolute path",
        ),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(
            error.contains("machine settings") && error.contains(message),
            "{error}"
        );
    }
}
