//! Pushes to Debian's registry.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::registry::Registry as RealRegistry;

use super::*;
use crate::PullOptions;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A registry, and a store that is not its own.
struct Setting {
    registry: RealRegistry,
    storage: TempDir,
    store: ImageStore,
    _root: TempDir,
}

impl Setting {
    fn new() -> Setting {
        let (storage, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Setting {
            registry: RealRegistry::start(storage.path()).unwrap(),
            store: ImageStore::open(root.path()).unwrap(),
            storage,
            _root: root,
        }
    }

    fn reference(&self, name: &str) -> Reference {
        reference(self.registry.address(), name)
    }

    fn keep(&self, media_type: &str, bytes: &[u8]) -> Value {
        let descriptor = Descriptor {
            digest: Digest::of(bytes),
            media_type: media_type.to_owned(),
            size: bytes.len() as u64,
        };
        self.store.keep(&descriptor, bytes).unwrap();
        written(&descriptor)
    }

    /// An image for a platform, of layers with this content.
    fn image(&self, architecture: &str, layers: &[&[u8]]) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|it| Digest::of(it).to_string()).collect();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let layers: Vec<Value> = layers.iter().map(|it| self.keep(LAYER, it)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": self.keep(CONFIG, config.to_string().as_bytes()),
        });
        let mut image = self.keep(MANIFEST, manifest.to_string().as_bytes());
        image["platform"] = json!({"os": "linux", "architecture": architecture});
        image
    }

    /// An image for these platforms.
    fn index(&self, images: &[Value]) -> Descriptor {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images});
        let index = self.keep(INDEX, index.to_string().as_bytes());
        Descriptor {
            digest: index["digest"].as_str().unwrap().parse().unwrap(),
            media_type: INDEX.to_owned(),
            size: index["size"].as_u64().unwrap(),
        }
    }

    async fn push(&self, reference: &Reference) -> Result<Descriptor, String> {
        let options = PushOptions::default();
        let pushed = self.store.push(reference, &options, &|_| {});
        pushed.await.map_err(|error| error.to_string())
    }
}

fn reference(address: SocketAddr, name: &str) -> Reference {
    Reference::parse(&format!("{address}/{name}"), "docker.io").unwrap()
}

fn written(descriptor: &Descriptor) -> Value {
    json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
    })
}

/// The image for each platform, as another store has it from the registry.
async fn pulled(reference: &Reference, platform: &str) -> crate::Image {
    let root = tempfile::tempdir().unwrap();
    let store = ImageStore::open(root.path()).unwrap();
    let (platform, options) = (platform.parse().unwrap(), PullOptions::default());
    let pulled = store.pull(reference, &platform, &options, &|_| {});
    pulled.await.unwrap()
}

#[tokio::test]
async fn all_platforms_are_pushed() {
    let setting = Setting::new();
    let (shared, one): (&[u8], &[u8]) = (&[1; 2000], &[2; 300_000]);
    let images = [
        setting.image("amd64", &[shared, one]),
        setting.image("arm64", &[shared]),
    ];
    let index = setting.index(&images);
    let reference = setting.reference("app:1");
    let error = setting.push(&reference).await.unwrap_err();
    assert!(error.contains("it is not here"), "{error}");
    setting.store.remember(&reference, &index).unwrap();
    let heard = Mutex::new(Vec::new());
    let listener = |progress: Progress| heard.lock().unwrap().push(progress);
    let options = PushOptions::default();
    let pushed = setting.store.push(&reference, &options, &listener).await;
    assert_eq!(pushed.unwrap(), index);
    for (platform, layers) in [("linux/amd64", 2), ("linux/arm64", 1)] {
        let image = pulled(&reference, platform).await;
        assert_eq!(image.descriptor, index);
        assert_eq!(image.layers.len(), layers);
    }
    let last = heard.lock().unwrap().last().cloned().unwrap();
    assert_eq!((last.step, last.done), (Step::Uploading, 302_000));
}

#[tokio::test]
async fn what_another_repository_has_is_taken_from_there() {
    let setting = Setting::new();
    let index = setting.index(&[setting.image("amd64", &[&[1; 5000]])]);
    for name in ["app:1", "team/other:1"] {
        let reference = setting.reference(name);
        setting.store.remember(&reference, &index).unwrap();
        setting.push(&reference).await.unwrap();
        let image = pulled(&reference, "linux/amd64").await;
        assert_eq!(image.layers.len(), 1);
    }
    let repositories = setting
        .storage
        .path()
        .join("docker/registry/v2/repositories");
    // The registry makes this for the first upload.
    assert!(repositories.join("app/_uploads").exists());
    assert!(!repositories.join("team/other/_uploads").exists());
}

#[tokio::test]
async fn one_platform_is_pushed_where_the_others_are_not_here() {
    let setting = Setting::new();
    let here = setting.image(&Platform::host().architecture, &[&[1; 500]]);
    let mut elsewhere = here.clone();
    elsewhere["digest"] = json!(Digest::of(b"elsewhere").to_string());
    elsewhere["platform"]["architecture"] = json!("s390x");
    let index = setting.index(&[elsewhere, here.clone()]);
    let reference = setting.reference("app:1");
    setting.store.remember(&reference, &index).unwrap();
    let heard = Mutex::new(Vec::new());
    let listener = |progress: Progress| heard.lock().unwrap().push(progress.step);
    let options = PushOptions::default();
    let pushed = setting.store.push(&reference, &options, &listener).await;
    assert_eq!(pushed.unwrap().digest.to_string(), here["digest"]);
    let platform = Platform::host().to_string();
    let said = Step::OnePlatform { platform };
    assert!(heard.lock().unwrap().contains(&said));

    let layer = setting.store.blob_path(&Digest::of(&[1; 500]));
    std::fs::remove_file(layer).unwrap();
    let error = setting.push(&reference).await.unwrap_err();
    assert!(error.contains("is not here"), "{error}");
}

#[tokio::test]
async fn an_upload_that_breaks_is_tried_again() {
    let setting = Setting::new();
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let index = setting.index(&[setting.image("amd64", &[&content])]);
    let (wire, has_broken) = breaking_once(setting.registry.address(), 1 << 20);
    let reference = reference(wire, "app:1");
    setting.store.remember(&reference, &index).unwrap();
    setting.push(&reference).await.unwrap();
    let image = pulled(&setting.reference("app:1"), "linux/amd64").await;
    assert_eq!(image.layers[0].diff_id, Digest::of(&content));
    assert!(has_broken.load(Ordering::Relaxed));
}

/// A way to a server that breaks once when this much was sent over one connection.
fn breaking_once(server: SocketAddr, after: usize) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let has_broken = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&has_broken);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(server).unwrap();
            let (mut back, mut from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
            let has_broken = Arc::clone(&has_broken);
            thread::spawn(move || forward(client, server, after, &has_broken));
        }
    });
    (address, told)
}

fn forward(mut client: TcpStream, mut server: TcpStream, after: usize, has_broken: &AtomicBool) {
    let (mut buffer, mut sent) = (vec![0; 64 << 10], 0);
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        sent += count;
        let breaks = sent > after && !has_broken.swap(true, Ordering::Relaxed);
        if breaks || server.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
