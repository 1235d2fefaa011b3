//! Layers of every kind, unpacked and inspected with e2fsprogs.

mod corpus;
mod hostile;
mod layer_builder;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use tar::{Builder, EntryType, Header};

use super::*;
use crate::{
    Descriptor, Digest, ImageConfig, LayerCount, Platform, Reference, media_type::Compression,
};
use layer_builder::LayerBuilder;

const SIZE: u64 = 256 << 20;

/// A store of images made from archives.
struct TestStore {
    _root: tempfile::TempDir,
    store: ImageStore,
}

impl TestStore {
    fn new() -> TestStore {
        let root = tempfile::tempdir().unwrap();
        TestStore {
            store: ImageStore::open(root.path()).unwrap(),
            _root: root,
        }
    }

    fn image(&self, layers: &[(Vec<u8>, Compression)]) -> Image {
        let layers: Vec<Layer> = layers
            .iter()
            .map(|(archive, compression)| self.layer(archive, *compression))
            .collect();
        let names: String = layers.iter().map(|layer| layer.diff_id.hex()).collect();
        let manifest = Descriptor {
            digest: Digest::compute(names.as_bytes()),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size: 1,
        };
        Image {
            reference: Reference::parse("test", "docker.io").unwrap(),
            config_digest: manifest.digest,
            descriptor: manifest.clone(),
            manifest,
            config: ImageConfig {
                platform: Platform::host(),
                environment: Vec::new(),
                entrypoint: Vec::new(),
                command: Vec::new(),
                working_directory: None,
                user: None,
                stop_signal: None,
                labels: Default::default(),
                created: None,
                history: Vec::new(),
            },
            settings: Default::default(),
            layers,
        }
    }

    fn layer(&self, archive: &[u8], compression: Compression) -> Layer {
        let bytes = match compression {
            Compression::None => archive.to_vec(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                encoder.write_all(archive).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(archive, 3).unwrap(),
        };
        let blob = Descriptor {
            digest: Digest::compute(&bytes),
            media_type: String::new(),
            size: bytes.len() as u64,
        };
        self.store.write_blob(&blob, &bytes).unwrap();
        Layer {
            blob,
            compression,
            diff_id: Digest::compute(archive),
        }
    }

    /// Makes a base from uncompressed archives and checks it with e2fsck.
    async fn base(&self, archives: Vec<Vec<u8>>) -> Result<PathBuf, ImageError> {
        let layers: Vec<_> = archives
            .into_iter()
            .map(|archive| (archive, Compression::None))
            .collect();
        let base = self
            .store
            .ensure_base(&self.image(&layers), SIZE, &|_| {})
            .await?;
        check(&base);
        Ok(base)
    }

    /// Whether no base and no temporary file exists.
    fn is_clean(&self) -> bool {
        let mut directories = [self.store.incoming(), self.store.bases()].into_iter();
        directories.all(|path| fs::read_dir(path).unwrap().next().is_none())
    }
}

/// Panics unless e2fsck finds the file system clean.
fn check(base: &Path) {
    let output = Command::new("e2fsck").arg("-fn").arg(base).output();
    let output = output.expect("cannot run e2fsck, which this test needs (package e2fsprogs)");
    assert!(output.status.success(), "{output:?}");
}

/// Returns the output of a debugfs request.
fn debugfs(base: &Path, request: &str) -> String {
    let output = Command::new("debugfs")
        .args(["-R", request])
        .arg(base)
        .output();
    let output = output.expect("cannot run debugfs, which this test needs (package e2fsprogs)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_there(base: &Path, path: &str) -> bool {
    debugfs(base, &format!("stat {path}")).contains("Inode:")
}

fn content(base: &Path, path: &str) -> String {
    debugfs(base, &format!("cat {path}"))
}

#[tokio::test]
async fn every_kind_of_member_is_unpacked() {
    let test = TestStore::new();
    let archive = LayerBuilder::new()
        .directory("./")
        .directory("etc/")
        .file("etc/hostname", "dev\n")
        .symlink("etc/alias", "hostname")
        .hard_link("etc/second", "etc/hostname")
        .entry(EntryType::Char, "dev/tty", "", b"")
        .entry(EntryType::Block, "dev/disk", "", b"")
        .entry(EntryType::Fifo, "dev/pipe", "", b"")
        .pax(
            "SCHILY.xattr.security.capability",
            b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        )
        .pax("SCHILY.xattr.com.apple.provenance", b"\x01\0")
        .pax("SCHILY.xattr.system.data", b"never")
        .file("bin/ping", "program")
        .bytes();
    let base = test.base(vec![archive]).await.unwrap();
    assert_eq!(content(&base, "/etc/hostname"), "dev\n");
    assert_eq!(content(&base, "/etc/second"), "dev\n");
    let hostname = debugfs(&base, "stat /etc/hostname");
    for part in [
        "Type: regular",
        "Mode:  0644",
        "User:  1000",
        "Group:  1001",
        "Links: 2",
    ] {
        assert!(hostname.contains(part), "{part} in {hostname}");
    }
    assert!(hostname.contains("mtime: 0x6553f100"), "{hostname}");
    let alias = debugfs(&base, "stat /etc/alias");
    assert!(alias.contains("Fast link dest: \"hostname\""), "{alias}");
    let tty = debugfs(&base, "stat /dev/tty");
    assert!(
        tty.contains("character special") && tty.contains("04:300"),
        "{tty}"
    );
    assert!(debugfs(&base, "stat /dev/disk").contains("block special"));
    assert!(debugfs(&base, "stat /dev/pipe").contains("FIFO"));
    let capability = debugfs(&base, "ea_list /bin/ping");
    assert!(
        capability.contains("security.capability (20)"),
        "{capability}"
    );
    // Attributes of another system, and of a namespace that only the file system may set.
    let foreign = ["com.apple", "system.data"];
    assert!(
        !foreign.iter().any(|name| capability.contains(name)),
        "{capability}"
    );
}

#[tokio::test]
async fn upper_layers_change_lower_ones() {
    let test = TestStore::new();
    let lower = LayerBuilder::new()
        .directory("a/")
        .file("a/removed", "x")
        .file("a/kept", "kept")
        .file("a/replaced", "old")
        .file("tree/deep/file", "x")
        .file("opaque/old", "x")
        .file("becomes-directory", "x")
        .file("becomes-file/inside", "x")
        .file("linked", "same file")
        .file("by-link/old", "x")
        .symlink("link-to-opaque", "by-link")
        .bytes();
    let upper = LayerBuilder::new()
        .file("a/.wh.removed", "")
        .file("a/replaced", "new")
        .directory(".wh.tree/")
        // The opaque mark hides lower layers only, not members before it in its own layer.
        .file("opaque/new", "new")
        .file("opaque/.wh..wh..opq", "")
        .file("becomes-directory/inside", "in")
        .file("becomes-file", "file")
        .hard_link("second-name", "linked")
        .file("own/.wh.own-file", "")
        .file("own/own-file", "stays")
        .file(".wh..wh.plnk/1.2", "aufs")
        .file(".wh.never-was", "")
        .bytes();
    // A file must be removed before a directory can take its place.
    let middle = LayerBuilder::new()
        .file(".wh.becomes-directory", "")
        .bytes();
    let base = test.base(vec![lower, middle, upper]).await.unwrap();
    for gone in [
        "/a/removed",
        "/tree",
        "/opaque/old",
        "/becomes-file/inside",
        "/a/.wh.removed",
    ] {
        assert!(!is_there(&base, gone), "{gone}");
    }
    for (path, expected) in [
        ("/a/kept", "kept"),
        ("/a/replaced", "new"),
        ("/opaque/new", "new"),
        ("/becomes-directory/inside", "in"),
        ("/becomes-file", "file"),
        ("/linked", "same file"),
        ("/second-name", "same file"),
        ("/own/own-file", "stays"),
    ] {
        assert_eq!(content(&base, path), expected, "{path}");
    }
}

#[tokio::test]
async fn hostile_paths_stay_inside() {
    let test = TestStore::new();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("v");
    fs::write(&victim, "untouched").unwrap();
    let victim_path = victim.to_str().unwrap();
    let archive = LayerBuilder::new()
        .file("../../../up", "up")
        .file("/absolute", "absolute")
        .symlink("out", "/")
        .file("out/through-root", "root")
        .symlink("climb", "../../../..")
        .file("climb/climbed", "climbed")
        .symlink("host", outside.path().to_str().unwrap())
        .file("host/v", "written")
        .file(victim_path, "written again")
        .bytes();
    let base = test.base(vec![archive]).await.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(content(&base, "/up"), "up");
    assert_eq!(content(&base, "/absolute"), "absolute");
    assert_eq!(content(&base, "/through-root"), "root");
    assert_eq!(content(&base, "/climbed"), "climbed");
    assert_eq!(content(&base, victim_path), "written again");
}

#[tokio::test]
async fn impossible_layers_are_refused_and_leave_no_file() {
    let test = TestStore::new();
    let archives = [
        LayerBuilder::new().hard_link("link", "nowhere").bytes(),
        LayerBuilder::new()
            .hard_link("link", "../../etc/passwd")
            .bytes(),
        LayerBuilder::new()
            .directory("d")
            .hard_link("link", "d")
            .bytes(),
        LayerBuilder::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", "x")
            .bytes(),
        LayerBuilder::new().symlink("empty", "").bytes(),
        LayerBuilder::new().file("etc/.wh...", "").bytes(),
        LayerBuilder::new().file("etc/.wh.", "").bytes(),
        LayerBuilder::new()
            .pax("path", b"nul\0inside")
            .file("x", "x")
            .bytes(),
        LayerBuilder::new()
            .pax("path", &[b'x'; 300])
            .file("x", "x")
            .bytes(),
        LayerBuilder::new().file("file", "x").bytes()[..600].to_vec(),
        b"no archive at all".to_vec(),
    ];
    for (index, archive) in archives.into_iter().enumerate() {
        let made = test.base(vec![archive]).await;
        let error = made
            .expect_err(&format!("archive {index} was accepted"))
            .to_string();
        assert!(
            error.starts_with(
                "cannot unpack image \"docker.io/library/test:latest\": layer 1 of 1: "
            ),
            "{index}: {error}"
        );
        assert!(test.is_clean(), "{index}: a file was left");
    }
}

#[tokio::test]
async fn every_compression_is_unpacked() {
    let test = TestStore::new();
    let big = "0123456789abcdef".repeat(200_000);
    let mut archives = Vec::new();
    for name in ["none", "gzip", "zstd"] {
        let header = |builder: &mut Builder<Vec<u8>>| {
            let mut header = Header::new_gnu();
            header.set_size(big.len() as u64);
            header.set_mode(0o600);
            builder
                .append_data(&mut header, name, big.as_bytes())
                .unwrap();
        };
        let mut builder = Builder::new(Vec::new());
        header(&mut builder);
        archives.push(builder.into_inner().unwrap());
    }
    let compressions = [Compression::None, Compression::Gzip, Compression::Zstd];
    let layers: Vec<_> = archives.into_iter().zip(compressions).collect();
    let image = test.image(&layers);
    let base = test.store.ensure_base(&image, SIZE, &|_| {}).await.unwrap();
    check(&base);
    for name in ["none", "gzip", "zstd"] {
        assert!(content(&base, name) == big, "{name}");
    }
}

#[tokio::test]
async fn an_archive_with_another_digest_is_refused() {
    let test = TestStore::new();
    let archive = LayerBuilder::new().file("a", "a").bytes();
    let mut image = test.image(&[(archive, Compression::Gzip)]);
    image.layers[0].diff_id = Digest::compute(b"something else");
    let error = test
        .store
        .ensure_base(&image, SIZE, &|_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("by its author"), "{error}");
    assert!(test.is_clean());
}

#[tokio::test]
async fn a_layer_damaged_on_disk_is_removed() {
    let test = TestStore::new();
    let archive = LayerBuilder::new().file("a", &"a".repeat(10_000)).bytes();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let image = test.image(&[(archive.clone(), compression)]);
        let blob = &image.layers[0].blob;
        let path = test.store.blob_path(&blob.digest);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&path, bytes).unwrap();
        let error = test
            .store
            .ensure_base(&image, SIZE, &|_| {})
            .await
            .unwrap_err();
        assert!(error.to_string().contains("damaged on disk"), "{error}");
        assert!(!test.store.has_blob(blob));
        assert!(test.is_clean());
    }
}

#[tokio::test]
async fn a_base_is_made_once() {
    let test = TestStore::new();
    let image = test.image(&[
        (
            LayerBuilder::new().file("a", "a").bytes(),
            Compression::Gzip,
        ),
        (
            LayerBuilder::new().file("b", "b").bytes(),
            Compression::Gzip,
        ),
    ]);
    let steps = std::sync::Mutex::new(Vec::new());
    let listener = |progress: Progress| steps.lock().unwrap().push(progress);
    let other_process = ImageStore::open(test._root.path()).unwrap();
    let (one, two) = tokio::join!(
        test.store.ensure_base(&image, SIZE, &listener),
        other_process.ensure_base(&image, SIZE, &listener),
    );
    assert_eq!(one.unwrap(), two.unwrap());
    let unpacked = steps.lock().unwrap().len();
    let last = steps.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last.step, Step::Unpacking);
    assert_eq!(last.layers, Some(LayerCount { done: 2, total: 2 }));
    assert_eq!(Some(last.done), last.total);
    test.store
        .ensure_base(&image, SIZE, &listener)
        .await
        .unwrap();
    assert_eq!(steps.lock().unwrap().len(), unpacked);
    let larger = test
        .store
        .ensure_base(&image, 2 * SIZE, &listener)
        .await
        .unwrap();
    assert_eq!(fs::metadata(larger).unwrap().len(), 2 * SIZE);
}

#[tokio::test]
async fn cancelled_unpacking_leaves_no_file() {
    let test = TestStore::new();
    let noise: Vec<u8> = (0..40 << 20)
        .map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(noise.len() as u64);
    builder
        .append_data(&mut header, "noise", noise.as_slice())
        .unwrap();
    let image = test.image(&[(builder.into_inner().unwrap(), Compression::None)]);
    let (begun, has_begun) = std::sync::mpsc::channel();
    {
        let begun = move |_| {
            let _ = begun.send(());
        };
        let base = test.store.ensure_base(&image, SIZE, &begun);
        tokio::select! {
            biased;
            () = async { while has_begun.try_recv().is_err() { tokio::task::yield_now().await } } => {}
            made = base => panic!("the base was made before it could be cancelled: {made:?}"),
        }
    }
    // The thread releases the lock when it has ended.
    let name = base_name(&image, SIZE);
    let _lock = test.store.lock(&name).await.unwrap();
    assert!(test.is_clean());
}
