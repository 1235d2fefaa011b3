//! Layers of every kind, looked at with the tools that everybody has for ext4.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use tar::{Builder, EntryType, Header};

use super::*;
use crate::{Descriptor, Digest, Layers, Platform, Reference, media_type::Compression};

const SIZE: u64 = 256 << 20;

/// A store that images are made in from archives.
struct Bench {
    _root: tempfile::TempDir,
    store: ImageStore,
}

impl Bench {
    fn new() -> Bench {
        let root = tempfile::tempdir().unwrap();
        Bench {
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
            digest: Digest::of(names.as_bytes()),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size: 1,
        };
        Image {
            reference: Reference::parse("test", "docker.io").unwrap(),
            config: manifest.digest,
            descriptor: manifest.clone(),
            manifest,
            platform: Platform::host(),
            environment: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            working_directory: None,
            user: None,
            stop_signal: None,
            labels: Default::default(),
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
            digest: Digest::of(&bytes),
            media_type: String::new(),
            size: bytes.len() as u64,
        };
        self.store.keep(&blob, &bytes).unwrap();
        Layer {
            blob,
            compression,
            diff_id: Digest::of(archive),
        }
    }

    /// The base made from plain archives, checked by e2fsck.
    async fn base(&self, archives: Vec<Vec<u8>>) -> Result<PathBuf, ImageError> {
        let layers: Vec<_> = archives
            .into_iter()
            .map(|archive| (archive, Compression::None))
            .collect();
        let base = self
            .store
            .base_of_size(&self.image(&layers), SIZE, &|_| {})
            .await?;
        check(&base);
        Ok(base)
    }

    fn is_clean(&self) -> bool {
        let mut directories = [self.store.incoming(), self.store.bases()].into_iter();
        directories.all(|path| fs::read_dir(path).unwrap().next().is_none())
    }
}

/// Fails unless e2fsck has nothing to say.
fn check(base: &Path) {
    let output = Command::new("e2fsck").arg("-fn").arg(base).output();
    let output = output.expect("e2fsck (package e2fsprogs) must be there for this test");
    assert!(output.status.success(), "{output:?}");
}

/// What debugfs answers.
fn debugfs(base: &Path, request: &str) -> String {
    let output = Command::new("debugfs")
        .args(["-R", request])
        .arg(base)
        .output();
    let output = output.expect("debugfs (package e2fsprogs) must be there for this test");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_there(base: &Path, path: &str) -> bool {
    debugfs(base, &format!("stat {path}")).contains("Inode:")
}

fn content(base: &Path, path: &str) -> String {
    debugfs(base, &format!("cat {path}"))
}

struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Archive {
        Archive(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, path: &str, link: &str, content: &[u8]) -> Archive {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        // Past the crate's own checks: these paths are meant to be hostile.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(if kind == EntryType::Directory {
            0o755
        } else {
            0o644
        });
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_device_major(4).unwrap();
        header.set_device_minor(300).unwrap();
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &str) -> Archive {
        self.entry(EntryType::Regular, path, "", content.as_bytes())
    }

    fn directory(self, path: &str) -> Archive {
        self.entry(EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Archive {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Archive {
        self.entry(EntryType::Link, path, target, b"")
    }

    fn pax(mut self, key: &str, value: &[u8]) -> Archive {
        self.0.append_pax_extensions([(key, value)]).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

#[tokio::test]
async fn every_kind_of_entry_arrives() {
    let bench = Bench::new();
    let archive = Archive::new()
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
    let base = bench.base(vec![archive]).await.unwrap();
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
    // Of another system, and of the file system's own.
    let foreign = ["com.apple", "system.data"];
    assert!(
        !foreign.iter().any(|name| capability.contains(name)),
        "{capability}"
    );
}

#[tokio::test]
async fn upper_layers_change_lower_ones() {
    let bench = Bench::new();
    let lower = Archive::new()
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
    let upper = Archive::new()
        .file("a/.wh.removed", "")
        .file("a/replaced", "new")
        .directory(".wh.tree/")
        // The opaque mark counts for lower layers only, wherever in its own it stands.
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
    // Before it becomes a directory, a file must go.
    let middle = Archive::new().file(".wh.becomes-directory", "").bytes();
    let base = bench.base(vec![lower, middle, upper]).await.unwrap();
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
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("v");
    fs::write(&victim, "untouched").unwrap();
    let victim_path = victim.to_str().unwrap();
    let archive = Archive::new()
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
    let base = bench.base(vec![archive]).await.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(content(&base, "/up"), "up");
    assert_eq!(content(&base, "/absolute"), "absolute");
    assert_eq!(content(&base, "/through-root"), "root");
    assert_eq!(content(&base, "/climbed"), "climbed");
    assert_eq!(content(&base, victim_path), "written again");
}

#[tokio::test]
async fn what_cannot_be_is_an_error_and_leaves_nothing() {
    let bench = Bench::new();
    let archives = [
        Archive::new().hard_link("link", "nowhere").bytes(),
        Archive::new().hard_link("link", "../../etc/passwd").bytes(),
        Archive::new().directory("d").hard_link("link", "d").bytes(),
        Archive::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", "x")
            .bytes(),
        Archive::new().symlink("empty", "").bytes(),
        Archive::new().file("etc/.wh...", "").bytes(),
        Archive::new().file("etc/.wh.", "").bytes(),
        Archive::new()
            .pax("path", b"nul\0inside")
            .file("x", "x")
            .bytes(),
        Archive::new()
            .pax("path", &[b'x'; 300])
            .file("x", "x")
            .bytes(),
        Archive::new().file("file", "x").bytes()[..600].to_vec(),
        b"no archive at all".to_vec(),
    ];
    for (index, archive) in archives.into_iter().enumerate() {
        let made = bench.base(vec![archive]).await;
        let error = made
            .expect_err(&format!("archive {index} was taken"))
            .to_string();
        assert!(
            error.starts_with("unpacking the image docker.io/library/test:latest: layer 1 of 1: "),
            "{index}: {error}"
        );
        assert!(bench.is_clean(), "{index}: something was left");
    }
}

#[tokio::test]
async fn every_compression_gives_the_same() {
    let bench = Bench::new();
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
    let image = bench.image(&layers);
    let base = bench
        .store
        .base_of_size(&image, SIZE, &|_| {})
        .await
        .unwrap();
    check(&base);
    for name in ["none", "gzip", "zstd"] {
        assert!(content(&base, name) == big, "{name}");
    }
}

#[tokio::test]
async fn an_archive_with_another_digest_is_refused() {
    let bench = Bench::new();
    let archive = Archive::new().file("a", "a").bytes();
    let mut image = bench.image(&[(archive, Compression::Gzip)]);
    image.layers[0].diff_id = Digest::of(b"something else");
    let error = bench
        .store
        .base_of_size(&image, SIZE, &|_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("ask its maker"), "{error}");
    assert!(bench.is_clean());
}

#[tokio::test]
async fn a_layer_damaged_on_disk_is_removed() {
    let bench = Bench::new();
    let archive = Archive::new().file("a", &"a".repeat(10_000)).bytes();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let image = bench.image(&[(archive.clone(), compression)]);
        let blob = &image.layers[0].blob;
        let path = bench.store.blob_path(&blob.digest);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&path, bytes).unwrap();
        let error = bench
            .store
            .base_of_size(&image, SIZE, &|_| {})
            .await
            .unwrap_err();
        assert!(error.to_string().contains("damaged on disk"), "{error}");
        assert!(!bench.store.has(blob));
        assert!(bench.is_clean());
    }
}

#[tokio::test]
async fn a_base_is_made_once() {
    let bench = Bench::new();
    let image = bench.image(&[
        (Archive::new().file("a", "a").bytes(), Compression::Gzip),
        (Archive::new().file("b", "b").bytes(), Compression::Gzip),
    ]);
    let steps = std::sync::Mutex::new(Vec::new());
    let listener = |progress: Progress| steps.lock().unwrap().push(progress);
    let other_process = ImageStore::open(bench._root.path()).unwrap();
    let (one, two) = tokio::join!(
        bench.store.base_of_size(&image, SIZE, &listener),
        other_process.base_of_size(&image, SIZE, &listener),
    );
    assert_eq!(one.unwrap(), two.unwrap());
    let unpacked = steps.lock().unwrap().len();
    let last = steps.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last.step, Step::Unpacking);
    assert_eq!(last.layers, Some(Layers { done: 2, total: 2 }));
    assert_eq!(Some(last.done), last.total);
    bench
        .store
        .base_of_size(&image, SIZE, &listener)
        .await
        .unwrap();
    assert_eq!(steps.lock().unwrap().len(), unpacked);
    let larger = bench
        .store
        .base_of_size(&image, 2 * SIZE, &listener)
        .await
        .unwrap();
    assert_eq!(fs::metadata(larger).unwrap().len(), 2 * SIZE);
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    let bench = Bench::new();
    let noise: Vec<u8> = (0..40 << 20)
        .map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(noise.len() as u64);
    builder
        .append_data(&mut header, "noise", noise.as_slice())
        .unwrap();
    let image = bench.image(&[(builder.into_inner().unwrap(), Compression::None)]);
    let (begun, has_begun) = std::sync::mpsc::channel();
    {
        let begun = move |_| {
            let _ = begun.send(());
        };
        let base = bench.store.base_of_size(&image, SIZE, &begun);
        tokio::select! {
            biased;
            () = async { while has_begun.try_recv().is_err() { tokio::task::yield_now().await } } => {}
            made = base => panic!("it was made before it could be given up: {made:?}"),
        }
    }
    // The lock is the sign that the thread has ended.
    let name = base_name(&image, SIZE);
    let _lock = bench.store.lock(&name).await.unwrap();
    assert!(bench.is_clean());
}
mod hostile;
