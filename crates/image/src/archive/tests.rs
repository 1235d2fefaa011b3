//! Archives from several programs, and hostile ones.

use std::{fs, io::Write};

use serde_json::{Value, json};

use super::*;
use crate::{Digest, ImageStore, Platform, Reference};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Builds an archive, member by member.
#[derive(Default, Clone)]
struct ArchiveBuilder {
    members: Vec<(String, Vec<u8>)>,
}

impl ArchiveBuilder {
    fn add(&mut self, name: &str, content: impl AsRef<[u8]>) -> &mut ArchiveBuilder {
        self.members
            .push((name.to_owned(), content.as_ref().to_vec()));
        self
    }

    /// Adds a layout's blob. Returns its descriptor.
    fn blob(&mut self, media_type: &str, content: impl AsRef<[u8]>) -> Value {
        let digest = Digest::compute(content.as_ref());
        self.add(&format!("blobs/sha256/{}", digest.hex()), &content);
        json!({
            "mediaType": media_type, "digest": digest.to_string(),
            "size": content.as_ref().len(),
        })
    }

    /// Adds an image with one layer that contains this text. Returns its manifest's descriptor.
    fn image(&mut self, text: &str) -> Value {
        let layer = layer(text);
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            config(&layer).to_string(),
        );
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar", layer);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        });
        self.blob(MANIFEST, manifest.to_string())
    }

    fn index(&mut self, entries: &[(&Value, Option<&str>)]) -> &mut ArchiveBuilder {
        let entries: Vec<Value> = entries
            .iter()
            .map(|(descriptor, name)| {
                let mut entry = (*descriptor).clone();
                if let Some(name) = name {
                    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
                }
                entry
            })
            .collect();
        self.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        let index = json!({"schemaVersion": 2, "manifests": entries});
        self.add("index.json", index.to_string())
    }

    fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in &self.members {
            append(&mut tar, name, content);
        }
        tar.into_inner().unwrap()
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    // Written directly, because `set_path` refuses hostile names.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

fn layer(text: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "file", text.as_bytes());
    tar.into_inner().unwrap()
}

fn config(layer: &[u8]) -> Value {
    json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::compute(layer).to_string()]},
    })
}

/// A store that archives are loaded into.
struct TestStore {
    root: tempfile::TempDir,
    store: ImageStore,
}

impl TestStore {
    fn new() -> TestStore {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        TestStore { root, store }
    }

    async fn load(&self, archive: &[u8]) -> Result<Vec<LoadedImage>, LoadError> {
        let shared = self.store.lock_shared().await.unwrap();
        let options = LoadOptions {
            default_registry: "docker.io".to_owned(),
            most_bytes: 1 << 20,
            name_override: None,
        };
        self.store.load(&shared, archive, &options, &|_| {})
    }

    /// Loads an archive that must be refused, and checks that nothing of it is stored.
    async fn load_error(&self, archive: &[u8]) -> String {
        let error = self.load(archive).await.unwrap_err().to_string();
        for directory in ["blobs/sha256", "incoming"] {
            let entries = fs::read_dir(self.root.path().join(directory)).unwrap();
            assert_eq!(entries.count(), 0, "{directory} after: {error}");
        }
        assert!(self.store.images(&[]).unwrap().is_empty(), "{error}");
        error
    }

    fn is_whole(&self, name: &str) -> bool {
        let reference = Reference::parse(name, "docker.io").unwrap();
        let platform: Platform = "linux/amd64".parse().unwrap();
        self.store
            .find_local(&reference, &platform)
            .unwrap()
            .is_some()
    }
}

fn names(images: &[LoadedImage]) -> Vec<Vec<String>> {
    let names = |image: &LoadedImage| image.references.iter().map(Reference::to_string).collect();
    images.iter().map(names).collect()
}

#[tokio::test]
async fn a_layout_is_loaded_in_any_order_and_compression() {
    let mut builder = ArchiveBuilder::default();
    let (one, two) = (builder.image("one"), builder.image("two"));
    builder.index(&[
        (&one, Some("localhost/one:1")),
        (&two, Some("two:1")),
        (&one, Some("docker.io/library/one:latest")),
        (&two, Some("latest")),
    ]);
    let forward = builder.tar();
    builder.members.reverse();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&builder.tar()).unwrap();
    let zstd = zstd::encode_all(forward.as_slice(), 1).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&forward).unwrap();
    let xz = liblzma::encode_all(forward.as_slice(), 9).unwrap();
    let gzip = gzip.finish().unwrap();
    for archive in [forward, gzip, zstd, bzip2.finish().unwrap(), xz] {
        let test = TestStore::new();
        let loaded = test.load(&archive).await.unwrap();
        assert_eq!(
            names(&loaded),
            [
                vec!["localhost/one:1", "docker.io/library/one:latest"],
                vec!["docker.io/library/two:1"]
            ]
        );
        for name in ["localhost/one:1", "one", "two:1"] {
            assert!(test.is_whole(name), "{name}");
        }
        // Again, now that all blobs are stored.
        assert_eq!(test.load(&archive).await.unwrap(), loaded);
    }
}

#[tokio::test]
async fn an_unnamed_image_is_kept_and_listed() {
    let (test, mut builder) = (TestStore::new(), ArchiveBuilder::default());
    let image = builder.image("one");
    builder.index(&[(&image, None)]);
    let loaded = test.load(&builder.tar()).await.unwrap();
    assert!(loaded[0].references.is_empty());
    let images = test.store.images(&[]).unwrap();
    assert_eq!(images[0].descriptor, loaded[0].descriptor);
    assert_eq!(
        images[0].variants[0].config.platform.to_string(),
        "linux/amd64"
    );
}

#[tokio::test]
async fn an_index_may_lack_some_platforms_but_not_all() {
    let mut builder = ArchiveBuilder::default();
    let mut here = builder.image("one");
    here["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let elsewhere = json!({
        "mediaType": MANIFEST, "digest": Digest::compute(b"other").to_string(), "size": 5,
        "platform": {"os": "linux", "architecture": "arm64"},
    });
    let unsaid = builder.image("two");
    // A signature is attached like this.
    let artifact = builder.blob(
        MANIFEST,
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": here, "layers": []})
            .to_string(),
    );
    let index = |entries: &[&Value]| {
        let mut builder = builder.clone();
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        });
        let index = builder.blob("application/vnd.oci.image.index.v1+json", index.to_string());
        builder.index(&[(&index, Some("many:1"))]);
        builder.tar()
    };
    let test = TestStore::new();
    let error = test.load_error(&index(&[&elsewhere])).await;
    assert!(
        error.contains("any platform") && error.contains("many:1"),
        "{error}"
    );
    for entries in [
        &[&elsewhere, &here][..],
        &[&elsewhere, &unsaid],
        &[&artifact, &here],
    ] {
        let test = TestStore::new();
        test.load(&index(entries)).await.unwrap();
        assert!(test.is_whole("many:1"), "{entries:?}");
    }
    test.load_error(&index(&[&elsewhere, &artifact])).await;
}

/// Writes an archive as `docker save` did before version 25: a shared layer is a symlink.
fn docker(tags: &Value) -> Vec<u8> {
    let layer = layer("one");
    let config = config(&layer).to_string();
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "abc/layer.tar", &layer);
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "def/layer.tar", "../abc/layer.tar")
        .unwrap();
    append(&mut tar, "cafe.json", config.as_bytes());
    let manifest = json!([
        {"Config": "cafe.json", "RepoTags": tags, "Layers": ["def/layer.tar"]},
        {"Config": "cafe.json", "RepoTags": null, "Layers": ["abc/layer.tar"]},
    ]);
    append(&mut tar, "manifest.json", manifest.to_string().as_bytes());
    append(&mut tar, "repositories", b"{}");
    tar.into_inner().unwrap()
}

#[tokio::test]
async fn an_archive_of_docker_save_is_loaded() {
    let test = TestStore::new();
    let loaded = test
        .load(&docker(&json!(["app:1", "quay.io/a/app:2"])))
        .await
        .unwrap();
    assert_eq!(
        names(&loaded),
        [["docker.io/library/app:1", "quay.io/a/app:2"]]
    );
    assert!(test.is_whole("app:1"));
    let images = test.store.images(&[]).unwrap();
    let layer_type = &images[0].variants[0].layers[0].media_type;
    assert_eq!(layer_type, "application/vnd.oci.image.layer.v1.tar");
    let reference = Reference::parse("app:1", "docker.io").unwrap();
    assert!(test.store.is_local_name(&reference).unwrap());
}

#[tokio::test]
async fn a_docker_layers_compression_is_detected_by_its_first_bytes() {
    let (test, layer) = (TestStore::new(), layer("one"));
    let mut builder = ArchiveBuilder::default();
    builder.add("l.tar", zstd::encode_all(layer.as_slice(), 1).unwrap());
    builder.add("c.json", config(&layer).to_string());
    let manifest = json!([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["l.tar"]}]);
    builder.add("manifest.json", manifest.to_string());
    test.load(&builder.tar()).await.unwrap();
    let images = test.store.images(&[]).unwrap();
    let layer_type = &images[0].variants[0].layers[0].media_type;
    assert_eq!(layer_type, "application/vnd.oci.image.layer.v1.tar+zstd");
}

#[tokio::test]
async fn a_missing_or_changed_blob_is_named_and_nothing_is_stored() {
    let test = TestStore::new();
    let mut builder = ArchiveBuilder::default();
    let image = builder.image("one");
    builder.index(&[(&image, Some("app:1"))]);
    for left_out in 0..3 {
        let mut builder = builder.clone();
        let (name, _) = builder.members.remove(left_out);
        let error = test.load_error(&builder.tar()).await;
        let digest = name.replace("blobs/sha256/", "sha256:");
        assert!(
            error.contains(&digest) && error.contains("app:1"),
            "{error}"
        );
    }
    for changed in 0..3 {
        let mut builder = builder.clone();
        builder.members[changed].1[0] ^= 1;
        let error = test.load_error(&builder.tar()).await;
        assert!(error.contains("changed or damaged"), "{error}");
    }
    let mut lie = image.clone();
    lie["size"] = json!(7);
    let error = test
        .load_error(&builder.clone().index(&[(&lie, Some("app:1"))]).tar())
        .await;
    assert!(error.contains("instead of 7"), "{error}");
}

#[tokio::test]
async fn a_docker_layer_with_another_digest_than_configured_is_refused() {
    let (test, mut builder) = (TestStore::new(), ArchiveBuilder::default());
    builder.add("l.tar", layer("another"));
    builder.add("c.json", config(&layer("one")).to_string());
    let manifest = json!([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["l.tar"]}]);
    builder.add("manifest.json", manifest.to_string());
    let error = test.load_error(&builder.tar()).await;
    assert!(
        error.contains("app:1") && error.contains("instead of"),
        "{error}"
    );
}

#[tokio::test]
async fn invalid_archives_are_refused() {
    let test = TestStore::new();
    let whole = docker(&json!(["app:1"]));
    let refused = async |members: &[(&str, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in members {
            append(&mut tar, name, content);
        }
        test.load_error(&tar.into_inner().unwrap()).await
    };
    let large = vec![b' '; (4 << 18) + 1];
    let manifest = |config: &str, layer: &str| {
        json!([{"Config": config, "RepoTags": ["app:1"], "Layers": [layer]}]).to_string()
    };
    for (members, words) in [
        (&[("file", &b"x"[..])][..], "no images"),
        (&[("../file", b"x")], "leads out of the archive"),
        (&[("a/../../file", b"x")], "leads out of the archive"),
        (&[("/etc/passwd", b"x")], "leads out of the archive"),
        (&[("index.json", b"{")], "index.json"),
        (&[("index.json", b"[]")], "index.json"),
        (&[("manifest.json", b"{}")], "manifest.json"),
        (&[("manifest.json", b"[]")], "no images"),
        (
            &[("manifest.json", "[".repeat(100_000).as_bytes())],
            "manifest.json",
        ),
        (&[("file", &large)], "unpacks to more than"),
        (
            &[("manifest.json", manifest("c", "l").as_bytes())],
            "member \"l\"",
        ),
        (
            &[
                ("manifest.json", manifest("../c", "l").as_bytes()),
                ("l", b"x"),
            ],
            "member \"../c\"",
        ),
        (
            &[
                ("manifest.json", manifest("c", "l").as_bytes()),
                ("l", b"x"),
                ("c", b"{}"),
            ],
            "configuration",
        ),
    ] {
        let error = refused(members).await;
        assert!(error.contains(words), "{error}");
    }
    for length in [0, 1, 511, 513, whole.len() / 2] {
        test.load_error(&whole[..length]).await;
    }
    let error = test.load_error(&docker(&json!(["no name"]))).await;
    assert!(error.contains("no name"), "{error}");
}

#[tokio::test]
async fn links_out_of_the_archive_are_refused() {
    let test = TestStore::new();
    for target in ["/etc/hostname", "../../../etc/hostname", "layer.tar", "no"] {
        let mut tar = tar::Builder::new(Vec::new());
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "layer.tar", target).unwrap();
        append(&mut tar, "c.json", config(b"").to_string().as_bytes());
        let manifest =
            json!([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["layer.tar"]}]);
        append(&mut tar, "manifest.json", manifest.to_string().as_bytes());
        let error = test.load_error(&tar.into_inner().unwrap()).await;
        let is_refused = error.contains("leads out of the archive") || error.contains("is missing");
        assert!(is_refused, "{target}: {error}");
    }
}

#[tokio::test]
async fn sparse_files_and_compression_bombs_are_limited() {
    let test = TestStore::new();
    let mut header = tar::Header::new_gnu();
    header.set_path("hole").unwrap();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(0);
    // The size with holes in GNU's format.
    header.as_gnu_mut().unwrap().realsize = *b"77777777777\0";
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, &b""[..]).unwrap();
    let error = test.load_error(&tar.into_inner().unwrap()).await;
    assert!(error.contains("unpacks to more than"), "{error}");

    let mut builder = ArchiveBuilder::default();
    builder.add("zeroes", vec![0; 64 << 20]);
    let bomb = zstd::encode_all(builder.tar().as_slice(), 1).unwrap();
    let error = test.load_error(&bomb).await;
    assert!(error.contains("unpacks to more than"), "{error}");
}

fn members(archive: &[u8]) -> Vec<String> {
    let mut tar = tar::Archive::new(archive);
    let entries = tar.entries().unwrap();
    let names = entries.map(|entry| entry.unwrap().path().unwrap().display().to_string());
    names.collect()
}

impl TestStore {
    async fn save(&self, format: ArchiveFormat) -> Result<Vec<u8>, SaveError> {
        let images = self.store.images(&[]).unwrap();
        let to_save: Vec<ImageToSave<'_>> = images
            .iter()
            .map(|image| ImageToSave {
                image,
                references: image.references.clone(),
            })
            .collect();
        let shared = self.store.lock_shared().await.unwrap();
        let archive = self.store.prepare_archive(&to_save, format, None)?;
        let mut written = Vec::new();
        archive.write(&shared, &mut written)?;
        assert_eq!(written.len() as u64, archive.tar_size());
        Ok(written)
    }
}

#[tokio::test]
async fn a_saved_archive_can_be_loaded() {
    let (test, mut builder) = (TestStore::new(), ArchiveBuilder::default());
    let (one, two) = (builder.image("one"), builder.image("two"));
    builder.index(&[
        (&one, Some("one:1")),
        (&one, Some("localhost/also:1")),
        (&two, None),
    ]);
    test.load(&builder.tar()).await.unwrap();
    for format in [ArchiveFormat::Oci, ArchiveFormat::Docker] {
        let archive = test.save(format).await.unwrap();
        assert_eq!(archive, test.save(format).await.unwrap());
        let has_list = members(&archive).contains(&"manifest.json".to_owned());
        assert_eq!(has_list, format == ArchiveFormat::Docker);
        let other = TestStore::new();
        other.load(&archive).await.unwrap();
        assert_eq!(
            other.store.images(&[]).unwrap(),
            test.store.images(&[]).unwrap()
        );
    }
}

#[tokio::test]
async fn a_saved_docker_archive_has_dockers_list() {
    let test = TestStore::new();
    test.load(&docker(&json!(["app:1"]))).await.unwrap();
    let archive = test.save(ArchiveFormat::Docker).await.unwrap();
    let mut tar = tar::Archive::new(archive.as_slice());
    let mut entries = tar.entries().unwrap().map(Result::unwrap);
    let list = entries.find(|entry| entry.path().unwrap().ends_with("manifest.json"));
    let list: Value = serde_json::from_reader(list.unwrap()).unwrap();
    assert_eq!(list[0]["RepoTags"], json!(["docker.io/library/app:1"]));
    let members = members(&archive);
    for path in [&list[0]["Config"], &list[0]["Layers"][0]] {
        assert!(
            members.contains(&path.as_str().unwrap().to_owned()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_damaged_image_is_not_saved() {
    let (test, mut builder) = (TestStore::new(), ArchiveBuilder::default());
    let image = builder.image("one");
    builder.index(&[(&image, Some("one:1"))]);
    test.load(&builder.tar()).await.unwrap();
    let stored = test.store.images(&[]).unwrap();
    let layer = stored[0].variants[0].layers[0].digest;
    let path = test.store.blob_path(&layer);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = test.save(ArchiveFormat::Oci).await.unwrap_err();
    assert!(error.to_string().contains(&layer.to_string()), "{error}");
    let to_save = ImageToSave {
        image: &stored[0],
        references: vec![],
    };
    let arm = "linux/arm64".parse().unwrap();
    let archive = test
        .store
        .prepare_archive(&[to_save], ArchiveFormat::Oci, Some(&arm));
    let error = archive.unwrap_err().to_string();
    assert!(
        error.contains("one:1") && error.contains("linux/arm64"),
        "{error}"
    );
}

#[tokio::test]
async fn loaded_and_tagged_images_need_no_registry() {
    let (test, mut builder) = (TestStore::new(), ArchiveBuilder::default());
    let image = builder.image("one");
    builder.index(&[(&image, Some("127.0.0.1:1/one:1"))]);
    test.load(&builder.tar()).await.unwrap();
    let (stored, shared) = (
        test.store.images(&[]).unwrap(),
        test.store.lock_shared().await.unwrap(),
    );
    let two = Reference::parse("127.0.0.1:1/two", "docker.io").unwrap();
    let one = &stored[0].references[0];
    test.store
        .tag(&shared, &stored[0], Some(one), &two)
        .unwrap();
    let platform = "linux/amd64".parse().unwrap();
    for reference in [one, &two] {
        let options = crate::PullOptions::default();
        let made = test
            .store
            .pull_to_base(reference, &platform, &options, 1 << 30, &|_| {});
        let (image, base) = made.await.unwrap();
        assert_eq!(image.descriptor, stored[0].descriptor);
        assert!(base.exists());
    }
}

#[tokio::test]
async fn endless_zeroes_are_refused() {
    let test = TestStore::new();
    let shared = test.store.lock_shared().await.unwrap();
    let options = LoadOptions {
        default_registry: "docker.io".to_owned(),
        most_bytes: 1 << 20,
        name_override: None,
    };
    let loaded = test
        .store
        .load(&shared, std::io::repeat(0), &options, &|_| {});
    let error = loaded.unwrap_err().to_string();
    assert!(error.contains("after its end"), "{error}");
}
