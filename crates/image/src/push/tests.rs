//! Pushes to a real registry (Debian's docker-registry).

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

use super::*;
use crate::{Platform, Progress, PullOptions, test_registry::Registry as RealRegistry};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Registry and an image store that is pushed from.
struct PushTest {
    registry: RealRegistry,
    storage: TempDir,
    store: ImageStore,
    _root: TempDir,
}

impl PushTest {
    fn new() -> PushTest {
        let (storage, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        PushTest {
            registry: RealRegistry::start(storage.path()),
            store: ImageStore::open(root.path()).unwrap(),
            storage,
            _root: root,
        }
    }

    fn reference(&self, name: &str) -> Reference {
        reference(self.registry.address(), name)
    }

    fn store_blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let descriptor = Descriptor {
            digest: Digest::compute(bytes),
            media_type: media_type.to_owned(),
            size: bytes.len() as u64,
        };
        self.store.write_blob(&descriptor, bytes).unwrap();
        to_json(&descriptor)
    }

    /// Stores an image for an architecture, with layers of this content. Returns its index entry.
    fn image(&self, architecture: &str, layers: &[&[u8]]) -> Value {
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|it| Digest::compute(it).to_string())
            .collect();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let layers: Vec<Value> = layers.iter().map(|it| self.store_blob(LAYER, it)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": self.store_blob(CONFIG, config.to_string().as_bytes()),
        });
        let mut image = self.store_blob(MANIFEST, manifest.to_string().as_bytes());
        image["platform"] = json!({"os": "linux", "architecture": architecture});
        image
    }

    /// Stores an index of these images.
    fn index(&self, images: &[Value]) -> Descriptor {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images});
        let index = self.store_blob(INDEX, index.to_string().as_bytes());
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

fn to_json(descriptor: &Descriptor) -> Value {
    json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
    })
}

/// Pulls the image of a platform into another store.
async fn pull(reference: &Reference, platform: &str) -> crate::Image {
    let root = tempfile::tempdir().unwrap();
    let store = ImageStore::open(root.path()).unwrap();
    let (platform, options) = (platform.parse().unwrap(), PullOptions::default());
    let pulled = store.pull(reference, &platform, &options, &|_| {});
    pulled.await.unwrap()
}

#[tokio::test]
async fn all_platforms_are_pushed() {
    let test = PushTest::new();
    let (shared, one): (&[u8], &[u8]) = (&[1; 2000], &[2; 300_000]);
    let images = [
        test.image("amd64", &[shared, one]),
        test.image("arm64", &[shared]),
    ];
    let index = test.index(&images);
    let reference = test.reference("app:1");
    let error = test.push(&reference).await.unwrap_err();
    assert!(error.contains("image not found"), "{error}");
    test.store.record_reference(&reference, &index).unwrap();
    let reports = Mutex::new(Vec::new());
    let listener = |progress: Progress| reports.lock().unwrap().push(progress);
    let options = PushOptions::default();
    let pushed = test.store.push(&reference, &options, &listener).await;
    assert_eq!(pushed.unwrap(), index);
    for (platform, layers) in [("linux/amd64", 2), ("linux/arm64", 1)] {
        let image = pull(&reference, platform).await;
        assert_eq!(image.descriptor, index);
        assert_eq!(image.layers.len(), layers);
    }
    let last = reports.lock().unwrap().last().cloned().unwrap();
    assert_eq!((last.step, last.done), (Step::Uploading, 302_000));
}

#[tokio::test]
async fn blobs_of_another_repository_are_mounted() {
    let test = PushTest::new();
    let index = test.index(&[test.image("amd64", &[&[1; 5000]])]);
    for name in ["app:1", "team/other:1"] {
        let reference = test.reference(name);
        test.store.record_reference(&reference, &index).unwrap();
        test.push(&reference).await.unwrap();
        let image = pull(&reference, "linux/amd64").await;
        assert_eq!(image.layers.len(), 1);
    }
    let repositories = test.storage.path().join("docker/registry/v2/repositories");
    // The registry creates this directory for the first upload.
    assert!(repositories.join("app/_uploads").exists());
    assert!(!repositories.join("team/other/_uploads").exists());
}

#[tokio::test]
async fn an_incomplete_index_is_pushed_for_one_platform() {
    let test = PushTest::new();
    let here = test.image(&Platform::host().architecture, &[&[1; 500]]);
    let mut elsewhere = here.clone();
    elsewhere["digest"] = json!(Digest::compute(b"elsewhere").to_string());
    elsewhere["platform"]["architecture"] = json!("s390x");
    let index = test.index(&[elsewhere, here.clone()]);
    let reference = test.reference("app:1");
    test.store.record_reference(&reference, &index).unwrap();
    let reports = Mutex::new(Vec::new());
    let listener = |progress: Progress| reports.lock().unwrap().push(progress.step);
    let options = PushOptions::default();
    let pushed = test.store.push(&reference, &options, &listener).await;
    assert_eq!(pushed.unwrap().digest.to_string(), here["digest"]);
    let platform = Platform::host().to_string();
    let notice = Step::OnePlatform { platform };
    assert!(reports.lock().unwrap().contains(&notice));

    let layer = test.store.blob_path(&Digest::compute(&[1; 500]));
    std::fs::remove_file(layer).unwrap();
    let error = test.push(&reference).await.unwrap_err();
    assert!(error.contains("not found in the store"), "{error}");
}

#[tokio::test]
async fn an_interrupted_upload_is_retried() {
    let test = PushTest::new();
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let index = test.index(&[test.image("amd64", &[&content])]);
    let (proxy, has_broken) = breaking_once(test.registry.address(), 1 << 20);
    let reference = reference(proxy, "app:1");
    test.store.record_reference(&reference, &index).unwrap();
    test.push(&reference).await.unwrap();
    let image = pull(&test.reference("app:1"), "linux/amd64").await;
    assert_eq!(image.layers[0].diff_id, Digest::compute(&content));
    assert!(has_broken.load(Ordering::Relaxed));
}

/// Starts a proxy to a server that breaks one connection after it has forwarded `after` bytes.
fn breaking_once(server: SocketAddr, after: usize) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let has_broken = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&has_broken);
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
    (address, flag)
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
