//! An image's author, who attaches machine settings to the image.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use xtask::registry::Registry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The author of an image `app` in a registry of its own.
///
/// Debian's registry has no referrers API, so artifacts are listed under a tag, which is the
/// fallback of the OCI distribution specification.
pub struct Author {
    registry: Registry,
    storage: TempDir,
    /// Descriptor of the image's manifest.
    image: Value,
}

impl Author {
    /// Copies a test image, `HOST:PORT/NAME:TAG`, into a new registry.
    pub fn new(image: &str) -> Author {
        Author::with_file(image, None)
    }

    /// Copies a test image and adds an executable file to it, given by its path and contents.
    pub fn with_file(image: &str, file: Option<(&str, &str)>) -> Author {
        Author::with(image, file.as_slice(), &[])
    }

    /// Copies a test image and adds executable files to it, given by path and contents, and
    /// environment variables, given as `NAME=value`.
    pub fn with(image: &str, files: &[(&str, &str)], environment: &[&str]) -> Author {
        let storage = tempfile::tempdir().unwrap();
        let registry = Registry::start(storage.path()).unwrap();
        let mut author = Author {
            registry,
            storage,
            image: Value::Null,
        };
        let (address, name) = image.split_once('/').unwrap();
        let (name, tag) = name.split_once(':').unwrap();
        let source: SocketAddr = address.parse().unwrap();
        let get = |path: &str| {
            let accepted = format!("Accept: {MANIFEST}\r\n");
            let (status, _, body) = request(source, "GET", path, &accepted, b"");
            assert_eq!(status, 200, "{path}");
            body
        };
        let blob = |part: &Value| {
            let digest = part["digest"].as_str().unwrap();
            get(&format!("/v2/{name}/blobs/{digest}"))
        };
        let manifest = get(&format!("/v2/{name}/manifests/{tag}"));
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let mut config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        for layer in manifest["layers"].as_array().unwrap() {
            author.push_blob("", &blob(layer));
        }
        for (path, text) in files {
            let layer = archive(path, text);
            let layer = author.push_blob("application/vnd.oci.image.layer.v1.tar", &layer);
            let diff_ids = config["rootfs"]["diff_ids"].as_array_mut().unwrap();
            diff_ids.push(layer["digest"].clone());
            manifest["layers"].as_array_mut().unwrap().push(layer);
        }
        if !environment.is_empty() {
            config["config"]["Env"] = json!(environment);
        }
        let config_type = manifest["config"]["mediaType"].as_str().unwrap();
        manifest["config"] = author.push_blob(config_type, config.to_string().as_bytes());
        author.image = author.push_manifest("1", MANIFEST, &manifest);
        author
    }

    /// Returns the image's reference.
    pub fn image(&self) -> String {
        format!("{}/app:1", self.registry.address())
    }

    /// Attaches an artifact with these layers, given by media type and contents. It replaces an
    /// artifact that was attached before.
    pub fn attach(&self, layers: &[(&str, &str)]) {
        let layers: Vec<Value> = layers
            .iter()
            .map(|(media_type, text)| self.push_blob(media_type, text.as_bytes()))
            .collect();
        let kind = "application/vnd.apple.container.machine.v1";
        let artifact = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
            "config": self.push_blob("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": layers, "subject": self.image,
        });
        let mut artifact = self.push_manifest("artifact", MANIFEST, &artifact);
        artifact["artifactType"] = json!(kind);
        let digest = self.image["digest"].as_str().unwrap();
        let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [artifact]});
        self.push_manifest(&digest.replace(':', "-"), INDEX, &list);
    }

    /// Closes the registry.
    pub fn close_registry(self) {
        drop(self.registry);
        drop(self.storage);
    }

    fn push_blob(&self, media_type: &str, content: &[u8]) -> Value {
        let address = self.registry.address();
        let (status, head, _) = request(address, "POST", "/v2/app/blobs/uploads/", "", b"");
        assert_eq!(status, 202, "{head}");
        let mut lines = head.lines();
        let location = lines.find_map(|line| line.strip_prefix("Location: "));
        let (_, path) = location.unwrap().split_once("/v2/").unwrap();
        let path = format!("/v2/{path}&digest={}", digest(content));
        let binary = "Content-Type: application/octet-stream\r\n";
        let (status, head, _) = request(address, "PUT", &path, binary, content);
        assert_eq!(status, 201, "{head}");
        json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
    }

    fn push_manifest(&self, tag: &str, media_type: &str, document: &Value) -> Value {
        let content = document.to_string();
        let path = format!("/v2/app/manifests/{tag}");
        let typed = format!("Content-Type: {media_type}\r\n");
        let address = self.registry.address();
        let (status, head, body) = request(address, "PUT", &path, &typed, content.as_bytes());
        assert_eq!(status, 201, "{head}{}", String::from_utf8_lossy(&body));
        let digest = digest(content.as_bytes());
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Returns a tar archive of an executable file.
fn archive(path: &str, text: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(directory.path()).args(["-c", "--", path]);
    tar.output().unwrap().stdout
}

/// Sends an HTTP request and returns status, head and body of the answer.
fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    // HTTP/1.0, because the answer is not chunked then.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.unwrap() + 4);
    let head = String::from_utf8(answer).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, body)
}
