use serde_json::{Value, json};

use super::*;
use crate::{ImageStore, Resolved};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ARTIFACT: &str = "application/vnd.apple.container.machine.setup.v1+sh";

struct TestStore {
    root: tempfile::TempDir,
    store: ImageStore,
}

fn reference(word: &str) -> Reference {
    Reference::parse(word, "docker.io").unwrap()
}

impl TestStore {
    fn new() -> TestStore {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        TestStore { root, store }
    }

    fn keep(&self, media_type: &str, content: &[u8]) -> (Descriptor, Value) {
        let descriptor = Descriptor {
            digest: Digest::compute(content),
            media_type: media_type.to_owned(),
            size: content.len() as u64,
        };
        self.store.write_blob(&descriptor, content).unwrap();
        let written = json!({
            "mediaType": media_type, "digest": descriptor.digest.to_string(),
            "size": content.len(),
        });
        (descriptor, written)
    }

    /// Stores an image of these layers, and a file in the place of its base.
    fn image(&self, name: &str, layers: &[&str]) -> Descriptor {
        let layer = |text: &&str| {
            let media_type = "application/vnd.oci.image.layer.v1.tar";
            self.keep(media_type, text.as_bytes()).1
        };
        let written: Vec<Value> = layers.iter().map(layer).collect();
        let diff_ids: Vec<&Value> = written.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "author": name,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config_type = "application/vnd.oci.image.config.v1+json";
        let (_, config) = self.keep(config_type, config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": written});
        let (image, _) = self.keep(MANIFEST, manifest.to_string().as_bytes());
        self.store
            .record_reference(&reference(name), &image)
            .unwrap();
        fs::write(self.base(&image), vec![1; 5000]).unwrap();
        image
    }

    fn base(&self, image: &Descriptor) -> PathBuf {
        let hex = image.digest.hex();
        self.store.base_path(&format!("{hex}-linux-amd64-1-v1"))
    }

    fn blobs(&self) -> usize {
        let blobs = fs::read_dir(self.root.path().join("blobs/sha256"));
        blobs.unwrap().count()
    }

    fn names(&self) -> Vec<String> {
        let images = self.store.images(&[]).unwrap();
        let names = images.iter().flat_map(|image| &image.references);
        names.map(Reference::to_string).collect()
    }
}

#[tokio::test]
async fn an_image_is_removed_with_its_last_reference_and_unshared_blobs() {
    let test = TestStore::new();
    let (one, two) = (
        test.image("one", &["shared", "of one"]),
        test.image("two", &["shared", "of two"]),
    );
    test.store
        .assign_names(&[(one.clone(), Some(reference("also:1")))])
        .unwrap();
    let guard = test.store.lock_exclusive().await.unwrap();
    let freed = guard.untag(&reference("one"), &GcRoots::default()).unwrap();
    assert_eq!(freed.references, [reference("one")]);
    assert_eq!((freed.images.len(), freed.blobs, freed.bytes), (0, 0, 0));
    assert_eq!(test.blobs(), 7);
    let freed = guard
        .untag(&reference("also:1"), &GcRoots::default())
        .unwrap();
    assert_eq!(freed.images, [one.digest]);
    // The manifest, the configuration and one layer.
    assert_eq!((freed.blobs, freed.bases), (3, 1));
    assert!(freed.bytes >= 5000, "{freed:?}");
    assert!(!test.base(&one).exists());
    assert!(test.base(&two).exists());
    assert_eq!(test.names(), ["docker.io/library/two:latest"]);
    assert_eq!(test.store.images(&[]).unwrap()[0].variants.len(), 1);
}

#[tokio::test]
async fn roots_are_kept() {
    let test = TestStore::new();
    let image = test.image("one", &["layer"]);
    let roots = GcRoots {
        images: vec![image.clone()],
        bases: vec![Path::new("/elsewhere").join(test.base(&image).file_name().unwrap())],
    };
    let stored = test.store.images(&[]).unwrap().remove(0);
    let guard = test.store.lock_exclusive().await.unwrap();
    let freed = guard.remove(&stored, &roots).unwrap();
    assert_eq!((freed.images.len(), freed.blobs, freed.bases), (0, 0, 0));
    let freed = guard.prune(&roots, true).unwrap();
    assert_eq!((freed.images.len(), freed.blobs, freed.bases), (0, 0, 0));
    assert!(test.base(&image).exists());
    let freed = guard.prune(&GcRoots::default(), false).unwrap();
    assert_eq!((freed.blobs, freed.bases), (3, 1));
    assert_eq!(test.blobs(), 0);
}

#[tokio::test]
async fn pruning_keeps_references_and_removes_unnamed_images() {
    let test = TestStore::new();
    let (old, new) = (test.image("app:1", &["old"]), test.image("app:1", &["new"]));
    let unnamed = test.image("gone", &["unnamed"]);
    let is_named = |entry: &LayoutEntry| entry.image().is_some_and(|image| *image != unnamed);
    test.store.retain_entries(is_named).unwrap();
    test.store.assign_names(&[(unnamed.clone(), None)]).unwrap();
    assert_eq!(test.store.images(&[]).unwrap().len(), 2);
    let guard = test.store.lock_exclusive().await.unwrap();
    test.keep("text/plain", b"dangling");
    let freed = guard.prune(&GcRoots::default(), false).unwrap();
    // Three blobs each of the old and the unnamed image, one dangling blob, and all bases.
    assert_eq!((freed.blobs, freed.bases), (7, 3));
    assert!(!test.base(&old).exists() && !test.base(&new).exists());
    assert_eq!(test.names(), ["docker.io/library/app:1"]);
    assert_eq!(test.store.images(&[]).unwrap()[0].variants.len(), 1);
    let freed = guard.prune(&GcRoots::default(), true).unwrap();
    assert_eq!(freed.references, [reference("app:1")]);
    assert_eq!(freed.images, [new.digest]);
    assert_eq!(test.blobs(), 0);
}

#[tokio::test]
async fn machine_settings_are_removed_with_their_image() {
    let test = TestStore::new();
    let image = test.image("one", &["layer"]);
    let (_, script) = test.keep(ARTIFACT, b"script");
    let (_, empty) = test.keep("application/vnd.oci.empty.v1+json", b"{}");
    let artifact = json!({"schemaVersion": 2, "config": empty, "layers": [script]});
    let (artifact, _) = test.keep(MANIFEST, artifact.to_string().as_bytes());
    let one = reference("one");
    let remember = test
        .store
        .record_settings(&one, &image.digest, Some(&artifact));
    remember.unwrap();
    let guard = test.store.lock_exclusive().await.unwrap();
    guard.prune(&GcRoots::default(), false).unwrap();
    assert_eq!(test.blobs(), 6);
    guard.untag(&one, &GcRoots::default()).unwrap();
    assert_eq!(test.store.find_settings(&one, &image.digest).unwrap(), None);
    guard.prune(&GcRoots::default(), false).unwrap();
    assert_eq!(test.blobs(), 0);
}

#[test]
fn a_word_is_resolved_by_reference_or_by_digest_prefix() {
    let test = TestStore::new();
    let one = test.image("one", &["layer"]);
    test.image("two:2", &["other"]);
    let images = test.store.images(&[]).unwrap();
    let hex = one.digest.hex();
    let find = |word: &str| Resolved::find(word, "docker.io", &images);
    for word in [
        "one",
        "one:latest",
        "docker.io/one",
        &hex,
        &hex[..12],
        &format!("sha256:{}", &hex[..8]),
        &format!("one@sha256:{hex}"),
    ] {
        let resolved = find(word).unwrap();
        assert_eq!(resolved.image().descriptor, one, "{word}");
        let is_name = matches!(resolved, Resolved::Name(..));
        assert_eq!(
            is_name,
            word.contains("one") && !word.contains('@'),
            "{word}"
        );
    }
    for word in ["three", "two", &hex[..3], &"0".repeat(64), "sha256:0000"] {
        let error = find(word).unwrap_err().to_string();
        assert!(
            error.contains(word) && error.contains("image ls"),
            "{error}"
        );
    }
    // A reference is not taken for a digest.
    test.store
        .assign_names(&[(images[1].descriptor.clone(), Some(reference(&hex[..12])))])
        .unwrap();
    let images = test.store.images(&[]).unwrap();
    let resolved = Resolved::find(&hex[..12], "docker.io", &images).unwrap();
    assert_ne!(resolved.image().descriptor, one);
    assert!(Resolved::find("A B", "docker.io", &images).is_err());
}

#[tokio::test]
async fn a_removal_waits_for_a_pull_and_keeps_its_blobs() {
    let test = TestStore::new();
    let image = test.image("one", &["layer"]);
    let shared = test.store.lock_shared().await.unwrap();
    let removing = tokio::spawn({
        let store = test.store.clone();
        async move {
            let guard = store.lock_exclusive().await.unwrap();
            guard.untag(&reference("one"), &GcRoots::default()).unwrap()
        }
    });
    // As a pull that found all blobs stored, and records its reference last.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    test.store
        .record_reference(&reference("other"), &image)
        .unwrap();
    drop(shared);
    assert_eq!(removing.await.unwrap().blobs, 0);
    assert_eq!(test.blobs(), 3);
}
