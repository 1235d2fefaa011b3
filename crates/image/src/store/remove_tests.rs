use serde_json::{Value, json};

use super::*;
use crate::{ImageStore, Meant};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ARTIFACT: &str = "application/vnd.apple.container.machine.setup.v1+sh";

struct Bench {
    root: tempfile::TempDir,
    store: ImageStore,
}

fn reference(word: &str) -> Reference {
    Reference::parse(word, "docker.io").unwrap()
}

impl Bench {
    fn new() -> Bench {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        Bench { root, store }
    }

    fn keep(&self, media_type: &str, content: &[u8]) -> (Descriptor, Value) {
        let descriptor = Descriptor {
            digest: Digest::of(content),
            media_type: media_type.to_owned(),
            size: content.len() as u64,
        };
        self.store.keep(&descriptor, content).unwrap();
        let written = json!({
            "mediaType": media_type, "digest": descriptor.digest.to_string(),
            "size": content.len(),
        });
        (descriptor, written)
    }

    /// An image of these layers and its base.
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
        self.store.remember(&reference(name), &image).unwrap();
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
async fn an_image_goes_with_its_last_name_and_what_no_other_needs() {
    let bench = Bench::new();
    let (one, two) = (
        bench.image("one", &["shared", "of one"]),
        bench.image("two", &["shared", "of two"]),
    );
    bench
        .store
        .give(&[(one.clone(), Some(reference("also:1")))])
        .unwrap();
    let alone = bench.store.alone().await.unwrap();
    let freed = alone.untag(&reference("one"), &Needed::default()).unwrap();
    assert_eq!(freed.references, [reference("one")]);
    assert_eq!((freed.images.len(), freed.blobs, freed.bytes), (0, 0, 0));
    assert_eq!(bench.blobs(), 7);
    let freed = alone
        .untag(&reference("also:1"), &Needed::default())
        .unwrap();
    assert_eq!(freed.images, [one.digest]);
    // Its manifest, its configuration and one layer.
    assert_eq!((freed.blobs, freed.bases), (3, 1));
    assert!(freed.bytes >= 5000, "{freed:?}");
    assert!(!bench.base(&one).exists());
    assert!(bench.base(&two).exists());
    assert_eq!(bench.names(), ["docker.io/library/two:latest"]);
    assert_eq!(bench.store.images(&[]).unwrap()[0].variants.len(), 1);
}

#[tokio::test]
async fn what_is_needed_stays() {
    let bench = Bench::new();
    let image = bench.image("one", &["layer"]);
    let needed = Needed {
        images: vec![image.clone()],
        bases: vec![Path::new("/elsewhere").join(bench.base(&image).file_name().unwrap())],
    };
    let stored = bench.store.images(&[]).unwrap().remove(0);
    let alone = bench.store.alone().await.unwrap();
    let freed = alone.remove(&stored, &needed).unwrap();
    assert_eq!((freed.images.len(), freed.blobs, freed.bases), (0, 0, 0));
    let freed = alone.prune(&needed, true).unwrap();
    assert_eq!((freed.images.len(), freed.blobs, freed.bases), (0, 0, 0));
    assert!(bench.base(&image).exists());
    let freed = alone.prune(&Needed::default(), false).unwrap();
    assert_eq!((freed.blobs, freed.bases), (3, 1));
    assert_eq!(bench.blobs(), 0);
}

#[tokio::test]
async fn pruning_keeps_names_and_takes_what_has_none() {
    let bench = Bench::new();
    let (old, new) = (
        bench.image("app:1", &["old"]),
        bench.image("app:1", &["new"]),
    );
    let unnamed = bench.image("gone", &["unnamed"]);
    let is_named = |entry: &Entry| entry.image().is_some_and(|image| *image != unnamed);
    bench.store.retain_entries(is_named).unwrap();
    bench.store.give(&[(unnamed.clone(), None)]).unwrap();
    assert_eq!(bench.store.images(&[]).unwrap().len(), 2);
    let alone = bench.store.alone().await.unwrap();
    bench.keep("text/plain", b"dangling");
    let freed = alone.prune(&Needed::default(), false).unwrap();
    // The old image, the unnamed one, what dangles; and every base, as it can be made again.
    assert_eq!((freed.blobs, freed.bases), (7, 3));
    assert!(!bench.base(&old).exists() && !bench.base(&new).exists());
    assert_eq!(bench.names(), ["docker.io/library/app:1"]);
    assert_eq!(bench.store.images(&[]).unwrap()[0].variants.len(), 1);
    let freed = alone.prune(&Needed::default(), true).unwrap();
    assert_eq!(freed.references, [reference("app:1")]);
    assert_eq!(freed.images, [new.digest]);
    assert_eq!(bench.blobs(), 0);
}

#[tokio::test]
async fn machine_settings_go_with_their_image() {
    let bench = Bench::new();
    let image = bench.image("one", &["layer"]);
    let (_, script) = bench.keep(ARTIFACT, b"script");
    let (_, empty) = bench.keep("application/vnd.oci.empty.v1+json", b"{}");
    let artifact = json!({"schemaVersion": 2, "config": empty, "layers": [script]});
    let (artifact, _) = bench.keep(MANIFEST, artifact.to_string().as_bytes());
    let one = reference("one");
    let remember = bench
        .store
        .remember_settings(&one, &image.digest, Some(&artifact));
    remember.unwrap();
    let alone = bench.store.alone().await.unwrap();
    alone.prune(&Needed::default(), false).unwrap();
    assert_eq!(bench.blobs(), 6);
    alone.untag(&one, &Needed::default()).unwrap();
    assert_eq!(
        bench.store.find_settings(&one, &image.digest).unwrap(),
        None
    );
    alone.prune(&Needed::default(), false).unwrap();
    assert_eq!(bench.blobs(), 0);
}

#[test]
fn a_word_names_an_image_by_name_or_by_the_beginning_of_its_digest() {
    let bench = Bench::new();
    let one = bench.image("one", &["layer"]);
    bench.image("two:2", &["other"]);
    let images = bench.store.images(&[]).unwrap();
    let hex = one.digest.hex();
    let find = |word: &str| Meant::find(word, "docker.io", &images);
    for word in [
        "one",
        "one:latest",
        "docker.io/one",
        &hex,
        &hex[..12],
        &format!("sha256:{}", &hex[..8]),
        &format!("one@sha256:{hex}"),
    ] {
        let meant = find(word).unwrap();
        assert_eq!(meant.image().descriptor, one, "{word}");
        let is_name = matches!(meant, Meant::Name(..));
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
    // What is a name here is not taken for a digest.
    bench
        .store
        .give(&[(images[1].descriptor.clone(), Some(reference(&hex[..12])))])
        .unwrap();
    let images = bench.store.images(&[]).unwrap();
    let meant = Meant::find(&hex[..12], "docker.io", &images).unwrap();
    assert_ne!(meant.image().descriptor, one);
    assert!(Meant::find("A B", "docker.io", &images).is_err());
}

#[tokio::test]
async fn a_pull_that_is_under_way_loses_nothing() {
    let bench = Bench::new();
    let image = bench.image("one", &["layer"]);
    let hold = bench.store.hold().await.unwrap();
    let removing = tokio::spawn({
        let store = bench.store.clone();
        async move {
            let alone = store.alone().await.unwrap();
            alone.untag(&reference("one"), &Needed::default()).unwrap()
        }
    });
    // It found everything here, and names it only now.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    bench.store.remember(&reference("other"), &image).unwrap();
    drop(hold);
    assert_eq!(removing.await.unwrap().blobs, 0);
    assert_eq!(bench.blobs(), 3);
}
