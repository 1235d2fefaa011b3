//! Archives of all kinds, and what must not come of those that lie.

use std::{fs, io::Write};

use serde_json::{Value, json};

use super::*;
use crate::{Digest, ImageStore, Platform, Reference};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Members of an archive, in order.
#[derive(Default, Clone)]
struct Author {
    members: Vec<(String, Vec<u8>)>,
}

impl Author {
    fn add(&mut self, name: &str, content: impl AsRef<[u8]>) -> &mut Author {
        self.members
            .push((name.to_owned(), content.as_ref().to_vec()));
        self
    }

    /// A layout's blob; returns its descriptor.
    fn blob(&mut self, media_type: &str, content: impl AsRef<[u8]>) -> Value {
        let digest = Digest::of(content.as_ref());
        self.add(&format!("blobs/sha256/{}", digest.hex()), &content);
        json!({
            "mediaType": media_type, "digest": digest.to_string(),
            "size": content.as_ref().len(),
        })
    }

    /// An image of one layer with this text in it; returns its manifest's descriptor.
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

    fn index(&mut self, entries: &[(&Value, Option<&str>)]) -> &mut Author {
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
    // As it is, whatever it says.
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
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(layer).to_string()]},
    })
}

/// A store and what it says to an archive.
struct Bench {
    root: tempfile::TempDir,
    store: ImageStore,
}

impl Bench {
    fn new() -> Bench {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        Bench { root, store }
    }

    async fn load(&self, archive: &[u8]) -> Result<Vec<LoadedImage>, LoadError> {
        let hold = self.store.hold().await.unwrap();
        let options = LoadOptions {
            default_registry: "docker.io".to_owned(),
            most_bytes: 1 << 20,
            called: None,
        };
        self.store.load(&hold, archive, &options, &|_| {})
    }

    /// Loads what must be refused, and finds nothing of it.
    async fn refused(&self, archive: &[u8]) -> String {
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
        self.store.local(&reference, &platform).unwrap().is_some()
    }
}

fn names(images: &[LoadedImage]) -> Vec<Vec<String>> {
    let names = |image: &LoadedImage| image.references.iter().map(Reference::to_string).collect();
    images.iter().map(names).collect()
}

#[tokio::test]
async fn a_layout_is_loaded_whatever_the_order_and_the_packing() {
    let mut author = Author::default();
    let (one, two) = (author.image("one"), author.image("two"));
    author.index(&[
        (&one, Some("localhost/one:1")),
        (&two, Some("two:1")),
        (&one, Some("docker.io/library/one:latest")),
        (&two, Some("latest")),
    ]);
    let forward = author.tar();
    author.members.reverse();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&author.tar()).unwrap();
    let zstd = zstd::encode_all(forward.as_slice(), 1).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&forward).unwrap();
    let xz = liblzma::encode_all(forward.as_slice(), 9).unwrap();
    let gzip = gzip.finish().unwrap();
    for archive in [forward, gzip, zstd, bzip2.finish().unwrap(), xz] {
        let bench = Bench::new();
        let loaded = bench.load(&archive).await.unwrap();
        assert_eq!(
            names(&loaded),
            [
                vec!["localhost/one:1", "docker.io/library/one:latest"],
                vec!["docker.io/library/two:1"]
            ]
        );
        for name in ["localhost/one:1", "one", "two:1"] {
            assert!(bench.is_whole(name), "{name}");
        }
        // Again, now that everything is there.
        assert_eq!(bench.load(&archive).await.unwrap(), loaded);
    }
}

#[tokio::test]
async fn an_image_without_a_name_stays_and_can_be_found() {
    let (bench, mut author) = (Bench::new(), Author::default());
    let image = author.image("one");
    author.index(&[(&image, None)]);
    let loaded = bench.load(&author.tar()).await.unwrap();
    assert!(loaded[0].references.is_empty());
    let images = bench.store.images(&[]).unwrap();
    assert_eq!(images[0].descriptor, loaded[0].descriptor);
    assert_eq!(images[0].variants[0].platform.to_string(), "linux/amd64");
}

#[tokio::test]
async fn an_index_may_lack_other_platforms_but_not_all() {
    let mut author = Author::default();
    let mut here = author.image("one");
    here["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let elsewhere = json!({
        "mediaType": MANIFEST, "digest": Digest::of(b"other").to_string(), "size": 5,
        "platform": {"os": "linux", "architecture": "arm64"},
    });
    let unsaid = author.image("two");
    // As signatures are attached.
    let artifact = author.blob(
        MANIFEST,
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": here, "layers": []})
            .to_string(),
    );
    let index = |entries: &[&Value]| {
        let mut author = author.clone();
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        });
        let index = author.blob("application/vnd.oci.image.index.v1+json", index.to_string());
        author.index(&[(&index, Some("many:1"))]);
        author.tar()
    };
    let bench = Bench::new();
    let error = bench.refused(&index(&[&elsewhere])).await;
    assert!(
        error.contains("any platform") && error.contains("many:1"),
        "{error}"
    );
    for entries in [
        &[&elsewhere, &here][..],
        &[&elsewhere, &unsaid],
        &[&artifact, &here],
    ] {
        let bench = Bench::new();
        bench.load(&index(entries)).await.unwrap();
        assert!(bench.is_whole("many:1"), "{entries:?}");
    }
    bench.refused(&index(&[&elsewhere, &artifact])).await;
}

/// As `docker save` did before version 25, a layer that two images share by a link.
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
async fn what_docker_saves_is_loaded() {
    let bench = Bench::new();
    let loaded = bench
        .load(&docker(&json!(["app:1", "quay.io/a/app:2"])))
        .await
        .unwrap();
    assert_eq!(
        names(&loaded),
        [["docker.io/library/app:1", "quay.io/a/app:2"]]
    );
    assert!(bench.is_whole("app:1"));
    let images = bench.store.images(&[]).unwrap();
    let layer_type = &images[0].variants[0].layers[0].media_type;
    assert_eq!(layer_type, "application/vnd.oci.image.layer.v1.tar");
    let reference = Reference::parse("app:1", "docker.io").unwrap();
    assert!(bench.store.is_given_here(&reference).unwrap());
}

#[tokio::test]
async fn a_packed_layer_of_dockers_is_known_by_its_first_bytes() {
    let (bench, layer) = (Bench::new(), layer("one"));
    let mut author = Author::default();
    author.add("l.tar", zstd::encode_all(layer.as_slice(), 1).unwrap());
    author.add("c.json", config(&layer).to_string());
    let manifest = json!([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["l.tar"]}]);
    author.add("manifest.json", manifest.to_string());
    bench.load(&author.tar()).await.unwrap();
    let images = bench.store.images(&[]).unwrap();
    let layer_type = &images[0].variants[0].layers[0].media_type;
    assert_eq!(layer_type, "application/vnd.oci.image.layer.v1.tar+zstd");
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_named_and_nothing_stays() {
    let bench = Bench::new();
    let mut author = Author::default();
    let image = author.image("one");
    author.index(&[(&image, Some("app:1"))]);
    for left_out in 0..3 {
        let mut author = author.clone();
        let (name, _) = author.members.remove(left_out);
        let error = bench.refused(&author.tar()).await;
        let digest = name.replace("blobs/sha256/", "sha256:");
        assert!(
            error.contains(&digest) && error.contains("app:1"),
            "{error}"
        );
    }
    for changed in 0..3 {
        let mut author = author.clone();
        author.members[changed].1[0] ^= 1;
        let error = bench.refused(&author.tar()).await;
        assert!(error.contains("changed or damaged"), "{error}");
    }
    let mut lie = image.clone();
    lie["size"] = json!(7);
    let error = bench
        .refused(&author.clone().index(&[(&lie, Some("app:1"))]).tar())
        .await;
    assert!(error.contains("promises 7"), "{error}");
}

#[tokio::test]
async fn a_layer_that_is_not_what_dockers_configuration_says_is_refused() {
    let (bench, mut author) = (Bench::new(), Author::default());
    author.add("l.tar", layer("another"));
    author.add("c.json", config(&layer("one")).to_string());
    let manifest = json!([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["l.tar"]}]);
    author.add("manifest.json", manifest.to_string());
    let error = bench.refused(&author.tar()).await;
    assert!(
        error.contains("app:1") && error.contains("changed or damaged"),
        "{error}"
    );
}

#[tokio::test]
async fn archives_that_lie_are_refused() {
    let bench = Bench::new();
    let whole = docker(&json!(["app:1"]));
    let refused = async |members: &[(&str, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in members {
            append(&mut tar, name, content);
        }
        bench.refused(&tar.into_inner().unwrap()).await
    };
    let large = vec![b' '; (4 << 18) + 1];
    let manifest = |config: &str, layer: &str| {
        json!([{"Config": config, "RepoTags": ["app:1"], "Layers": [layer]}]).to_string()
    };
    for (members, words) in [
        (&[("file", &b"x"[..])][..], "no images"),
        (&[("../file", b"x")], "leads out of it"),
        (&[("a/../../file", b"x")], "leads out of it"),
        (&[("/etc/passwd", b"x")], "leads out of it"),
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
            "the file \"l\"",
        ),
        (
            &[
                ("manifest.json", manifest("../c", "l").as_bytes()),
                ("l", b"x"),
            ],
            "the file \"../c\"",
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
        bench.refused(&whole[..length]).await;
    }
    let error = bench.refused(&docker(&json!(["no name"]))).await;
    assert!(error.contains("no name"), "{error}");
}

#[tokio::test]
async fn links_lead_nowhere_else() {
    let bench = Bench::new();
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
        let error = bench.refused(&tar.into_inner().unwrap()).await;
        let is_told = error.contains("leads out of it") || error.contains("is not in it");
        assert!(is_told, "{target}: {error}");
    }
}

#[tokio::test]
async fn holes_and_bombs_are_bounded() {
    let bench = Bench::new();
    let mut header = tar::Header::new_gnu();
    header.set_path("hole").unwrap();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(0);
    // GNU's field for the size with holes.
    header.as_gnu_mut().unwrap().realsize = *b"77777777777\0";
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, &b""[..]).unwrap();
    let error = bench.refused(&tar.into_inner().unwrap()).await;
    assert!(error.contains("unpacks to more than"), "{error}");

    let mut author = Author::default();
    author.add("zeroes", vec![0; 64 << 20]);
    let bomb = zstd::encode_all(author.tar().as_slice(), 1).unwrap();
    let error = bench.refused(&bomb).await;
    assert!(error.contains("unpacks to more than"), "{error}");
}

fn members(archive: &[u8]) -> Vec<String> {
    let mut tar = tar::Archive::new(archive);
    let entries = tar.entries().unwrap();
    let names = entries.map(|entry| entry.unwrap().path().unwrap().display().to_string());
    names.collect()
}

impl Bench {
    async fn save(&self, format: ArchiveFormat) -> Result<Vec<u8>, SaveError> {
        let images = self.store.images(&[]).unwrap();
        let to_save: Vec<ImageToSave<'_>> = images
            .iter()
            .map(|image| ImageToSave {
                image,
                references: image.references.clone(),
            })
            .collect();
        let hold = self.store.hold().await.unwrap();
        let archive = self.store.archive(&to_save, format, None)?;
        let mut written = Vec::new();
        archive.write(&hold, &mut written)?;
        Ok(written)
    }
}

#[tokio::test]
async fn what_is_saved_can_be_loaded() {
    let (bench, mut author) = (Bench::new(), Author::default());
    let (one, two) = (author.image("one"), author.image("two"));
    author.index(&[
        (&one, Some("one:1")),
        (&one, Some("localhost/also:1")),
        (&two, None),
    ]);
    bench.load(&author.tar()).await.unwrap();
    for format in [ArchiveFormat::Oci, ArchiveFormat::Docker] {
        let archive = bench.save(format).await.unwrap();
        assert_eq!(archive, bench.save(format).await.unwrap());
        let has_list = members(&archive).contains(&"manifest.json".to_owned());
        assert_eq!(has_list, format == ArchiveFormat::Docker);
        let other = Bench::new();
        other.load(&archive).await.unwrap();
        assert_eq!(
            other.store.images(&[]).unwrap(),
            bench.store.images(&[]).unwrap()
        );
    }
}

#[tokio::test]
async fn docker_finds_its_list_in_what_is_saved_for_it() {
    let bench = Bench::new();
    bench.load(&docker(&json!(["app:1"]))).await.unwrap();
    let archive = bench.save(ArchiveFormat::Docker).await.unwrap();
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
async fn what_was_damaged_is_not_saved() {
    let (bench, mut author) = (Bench::new(), Author::default());
    let image = author.image("one");
    author.index(&[(&image, Some("one:1"))]);
    bench.load(&author.tar()).await.unwrap();
    let stored = bench.store.images(&[]).unwrap();
    let layer = stored[0].variants[0].layers[0].digest;
    let path = bench.store.blob_path(&layer);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = bench.save(ArchiveFormat::Oci).await.unwrap_err();
    assert!(error.to_string().contains(&layer.to_string()), "{error}");
    let to_save = ImageToSave {
        image: &stored[0],
        references: vec![],
    };
    let arm = "linux/arm64".parse().unwrap();
    let archive = bench
        .store
        .archive(&[to_save], ArchiveFormat::Oci, Some(&arm));
    let error = archive.unwrap_err().to_string();
    assert!(
        error.contains("one:1") && error.contains("linux/arm64"),
        "{error}"
    );
}

#[tokio::test]
async fn what_was_loaded_needs_no_registry_and_tags_are_names() {
    let (bench, mut author) = (Bench::new(), Author::default());
    let image = author.image("one");
    author.index(&[(&image, Some("127.0.0.1:1/one:1"))]);
    bench.load(&author.tar()).await.unwrap();
    let (stored, hold) = (
        bench.store.images(&[]).unwrap(),
        bench.store.hold().await.unwrap(),
    );
    let two = Reference::parse("127.0.0.1:1/two", "docker.io").unwrap();
    let one = &stored[0].references[0];
    bench.store.tag(&hold, &stored[0], Some(one), &two).unwrap();
    let platform = "linux/amd64".parse().unwrap();
    for reference in [one, &two] {
        let options = crate::PullOptions::default();
        let made = bench
            .store
            .pull_to_base(reference, &platform, &options, 1 << 30, &|_| {});
        let (image, base) = made.await.unwrap();
        assert_eq!(image.descriptor, stored[0].descriptor);
        assert!(base.exists());
    }
}

#[tokio::test]
async fn zeroes_without_end_are_no_archive() {
    let bench = Bench::new();
    let hold = bench.store.hold().await.unwrap();
    let options = LoadOptions {
        default_registry: "docker.io".to_owned(),
        most_bytes: 1 << 20,
        called: None,
    };
    let loaded = bench
        .store
        .load(&hold, std::io::repeat(0), &options, &|_| {});
    let error = loaded.unwrap_err().to_string();
    assert!(error.contains("behind its end"), "{error}");
}
