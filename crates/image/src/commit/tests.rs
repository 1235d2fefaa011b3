//! Commits of layers over a Docker image.

use std::io::Cursor;

use serde_json::{Value, json};

use super::*;
use crate::{Platform, media_type::OCI_LAYER_GZIP};

const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

struct TestStore {
    _root: tempfile::TempDir,
    store: ImageStore,
}

fn reference(word: &str) -> Reference {
    Reference::parse(word, "docker.io").unwrap()
}

impl TestStore {
    /// Returns a store with a Docker image `base`.
    fn new() -> TestStore {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let mut blob = Vec::new();
        layer_of(&mut blob, &empty_archive());
        let layer = Descriptor {
            digest: Digest::compute(&blob),
            media_type: DOCKER_LAYER.to_owned(),
            size: blob.len() as u64,
        };
        store.write_blob(&layer, &blob).unwrap();
        let config = json!({
            "architecture": "amd64", "os": "linux", "container": "x", "docker_version": "20",
            "config": {"Env": ["PATH=/bin", "A=1"], "Cmd": ["sh"], "Healthcheck": {"Test": ["x"]}},
            "rootfs": {"type": "layers", "diff_ids": [Digest::compute(&empty_archive()).to_string()]},
            "history": [{"created_by": "x"}],
        });
        let config = store
            .write_document(&config, "application/vnd.docker.container.image.v1+json")
            .unwrap();
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": docker,
            "config": {
                "mediaType": config.media_type, "digest": config.digest.to_string(),
                "size": config.size,
            },
            "layers": [{
                "mediaType": DOCKER_LAYER, "digest": layer.digest.to_string(), "size": layer.size,
                "annotations": {"kept": "yes"},
            }],
        });
        let manifest = store.write_document(&manifest, docker).unwrap();
        store
            .record_reference(&reference("base"), &manifest)
            .unwrap();
        TestStore { _root: root, store }
    }

    fn image(&self, name: &str) -> Image {
        let platform: Platform = "linux/amd64".parse().unwrap();
        self.store
            .find_local(&reference(name), &platform)
            .unwrap()
            .unwrap()
    }

    fn commit(&self, base: &str, name: &str, options: &CommitOptions) -> Descriptor {
        let mut archive = Cursor::new(empty_archive());
        self.store
            .commit(
                &self.image(base),
                &reference(name),
                &mut archive,
                options,
                &|_| (),
            )
            .unwrap()
    }

    fn read(&self, digest: &str) -> Value {
        self.store.read_document(&digest.parse().unwrap()).unwrap()
    }
}

fn empty_archive() -> Vec<u8> {
    vec![0; 1024]
}

fn layer_of(to: &mut Vec<u8>, archive: &[u8]) {
    use std::io::Write;
    let mut packer = flate2::write::GzEncoder::new(to, flate2::Compression::default());
    packer.write_all(archive).unwrap();
    packer.finish().unwrap();
}

#[test]
fn a_committed_image_is_its_base_with_one_more_layer() {
    let test = TestStore::new();
    let options = CommitOptions {
        author: Some("Ann".to_owned()),
        message: Some("with tools".to_owned()),
        changes: ["ENV A=2", "CMD [\"/bin/init\"]", "LABEL a \"b c\""]
            .map(|change| change.parse().unwrap())
            .to_vec(),
        format: LayerFormat::Zstd,
    };
    let made = test.commit("base", "new:1", &options);
    let image = test.image("new:1");
    assert_eq!(image.descriptor, made);
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.config.environment, ["PATH=/bin", "A=2"]);
    assert_eq!(image.config.command, ["/bin/init"]);
    assert_eq!(image.config.labels["a"], "b c");

    let manifest = test.read(&made.digest.to_string());
    assert_eq!(manifest["mediaType"], OCI_MANIFEST);
    assert_eq!(manifest["layers"][0]["mediaType"], OCI_LAYER_GZIP);
    assert_eq!(manifest["layers"][0]["annotations"]["kept"], "yes");
    let config = test.read(manifest["config"]["digest"].as_str().unwrap());
    assert_eq!(config["config"]["Healthcheck"]["Test"][0], "x");
    assert_eq!(config["author"], "Ann");
    assert_eq!(config["container"], Value::Null);
    assert_eq!(config["history"][1]["comment"], "with tools");
    assert_eq!(
        config["rootfs"]["diff_ids"][1],
        Digest::compute(&empty_archive()).to_string()
    );

    let again = test.commit("new:1", "new:1", &CommitOptions::default());
    assert_eq!(test.image("new:1").descriptor, again);
    assert_eq!(test.image("new:1").layers.len(), 3);
}

#[test]
fn incomplete_changes_leave_no_blob() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the machine has ended"))
        }
    }
    let test = TestStore::new();
    let blobs = || {
        std::fs::read_dir(
            test.store
                .blob_path(&Digest::compute(b""))
                .parent()
                .unwrap(),
        )
        .unwrap()
        .count()
    };
    let before = blobs();
    let base = test.image("base");
    let options = CommitOptions::default();
    let commit = |name, archive: &mut dyn Read| {
        let made = test
            .store
            .commit(&base, &reference(name), archive, &options, &|_| ());
        made.unwrap_err().to_string()
    };
    assert!(commit("new", &mut Broken).contains("the machine has ended"));
    let digest = format!("new@{}", Digest::compute(b"x"));
    assert!(commit(&digest, &mut Cursor::new(empty_archive())).contains("digest"));
    assert_eq!(blobs(), before);
    let left = std::fs::read_dir(test.store.incoming()).unwrap().count();
    assert_eq!(left, 0);
    assert!(
        test.store
            .find_reference(&reference("new"))
            .unwrap()
            .is_none()
    );
}

#[test]
fn invalid_changes_are_refused() {
    for text in ["", "ENV", "ENV =x", "RUN ls", "CMD", "CMD [1]", "USER  "] {
        assert!(text.parse::<Change>().is_err(), "{text}");
    }
    let shell = "cmd ls -l".parse::<Change>().unwrap();
    let words = ["/bin/sh", "-c", "ls -l"].map(str::to_owned).to_vec();
    assert_eq!(shell, Change::Command(words));
}
