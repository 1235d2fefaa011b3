//! The corpus.

use std::io::{Read, repeat};

use tar::{Builder, EntryType, Header};

use crate::{
    disk::Disk,
    layers::Form,
    listing::{Scope, ensure_same, list},
    sources::{self, Source},
    truth,
};

/// Compares what we make of a tree's archive with the tree itself.
fn compare_with_source(source: &Source, forms: &[Form]) {
    for form in forms {
        let disk = Disk::of([form.archive(source.path())]);
        let Some(mounted) = disk.mount() else {
            continue;
        };
        let ours = list(mounted.path(), form.scope());
        let theirs = list(source.path(), form.scope());
        ensure_same(&ours, &theirs, &format!("{form:?} and its source"));
    }
}

/// Compares what we make of layers with what umoci makes of them.
fn compare_with_umoci(layers: &[Vec<u8>], what: &str) {
    let disk = Disk::of(layers.iter().map(Vec::as_slice));
    let (Some(mounted), Some(truth)) = (disk.mount(), truth::unpacked(layers)) else {
        return;
    };
    let mut ours = list(mounted.path(), Scope::EVERYTHING);
    let mut theirs = list(&truth.path().join("tree"), Scope::EVERYTHING);
    // umoci counts in 64 bits of nanoseconds, which end in 2262. The source has been compared.
    for listing in [&mut ours, &mut theirs] {
        listing.remove(&b"/times/2400"[..]);
    }
    ensure_same(&ours, &theirs, what);
}

const QUICK: [Form; 2] = [Form::Gnu, Form::GnuPax("1.0")];

#[test]
fn what_gnu_tar_makes_of_small_trees() {
    compare_with_source(&sources::kinds(), &QUICK);
    compare_with_source(&sources::xattrs(), &QUICK);
    compare_with_source(&sources::before_1970(), &[Form::GnuPax("0.1")]);
    compare_with_source(&sources::one_directory(3000), &QUICK);
    compare_with_source(&sources::deep(300), &QUICK);
    compare_with_source(&sources::hard_links(3, 100), &QUICK);
    compare_with_source(&sources::holes(64 << 20), &QUICK);
}

#[test]
#[ignore = "minutes, and tools of others: `make image-corpus` runs it"]
fn every_kind_in_every_form() {
    for source in [sources::kinds(), sources::xattrs(), sources::holes(8 << 30)] {
        compare_with_source(&source, &Form::ALL);
    }
    // Not the attributes: umoci leaves out those that are empty.
    let source = sources::kinds();
    for form in Form::ALL {
        let archive = form.archive(source.path()).whole();
        compare_with_umoci(&[archive], &format!("{form:?} and umoci"));
    }
}

#[test]
#[ignore = "minutes, and tools of others: `make image-corpus` runs it"]
fn as_many_as_there_may_be() {
    let forms = [Form::Gnu, Form::Bsd];
    compare_with_source(&sources::one_directory(100_000), &forms);
    compare_with_source(&sources::small_files(200_000), &forms);
    compare_with_source(&sources::hard_links(1, 65_000), &forms);
    compare_with_source(&sources::hard_links(2000, 30), &forms);
    compare_with_source(&sources::deep(600), &[Form::Gnu, Form::GnuPax("1.0")]);
}

#[test]
#[ignore = "minutes, and tools of others: `make image-corpus` runs it"]
fn a_file_of_more_than_4_gib() {
    const SIZE: u64 = (4 << 30) + 12_345;
    let mut header = Header::new_ustar();
    header.set_path("large").unwrap();
    header.set_size(SIZE);
    header.set_mode(0o644);
    header.set_cksum();
    let archive = header.as_bytes().chain(repeat(7).take(SIZE));
    let filling = repeat(0).take(SIZE.wrapping_neg() % 512 + 1024);
    let disk = Disk::of([archive.chain(filling)]);
    let Some(mounted) = disk.mount() else { return };
    let mut file = std::fs::File::open(mounted.path().join("large")).unwrap();
    let mut chunk = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = file.read(&mut chunk).unwrap();
        if count == 0 {
            break;
        }
        assert!(chunk[..count].iter().all(|byte| *byte == 7));
        size += count as u64;
    }
    assert_eq!(size, SIZE);
}

/// A layer that is written by hand.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Layer {
        Layer(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, path: &str, link: &str, content: &[u8]) -> Layer {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(if kind == EntryType::Directory {
            0o755
        } else {
            0o640
        });
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(1_700_000_000 + content.len() as u64);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &str) -> Layer {
        self.entry(EntryType::Regular, path, "", content.as_bytes())
    }

    fn directory(self, path: &str) -> Layer {
        self.entry(EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Layer {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Layer {
        self.entry(EntryType::Link, path, target, b"")
    }

    fn pax(mut self, key: &str, value: &[u8]) -> Layer {
        self.0.append_pax_extensions([(key, value)]).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

#[test]
#[ignore = "minutes, and tools of others: `make image-corpus` runs it"]
fn layers_over_layers() {
    let base = Layer::new()
        .directory("./")
        .directory("etc/")
        .file("etc/gone", "removed above")
        .file("etc/kept", "kept")
        .file("etc/changed", "old")
        .directory("opaque/")
        .directory("opaque/below/")
        .file("opaque/below/old", "hidden")
        .file("opaque/old", "hidden")
        .directory("swap/")
        .file("swap/inside", "goes with its directory")
        .file("first", "one file, many names")
        .hard_link("second", "first")
        .symlink("was-link", "etc")
        .file("was-file", "a file");
    let second = Layer::new()
        .file("etc/.wh.gone", "")
        .file("etc/changed", "new contents")
        .directory("opaque/")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "shown")
        .file("swap", "a file now")
        .hard_link("third", "second")
        .directory("was-link/")
        .file("was-link/inside", "in a directory of its own")
        .symlink("was-file", "first");
    let third = Layer::new()
        .file(".wh.swap", "")
        .file(".wh.first", "")
        .hard_link("fourth", "third")
        .file("etc/.wh.not-there", "");
    let fourth = Layer::new()
        .directory("swap/")
        .file("swap/again", "a directory once more")
        .pax("SCHILY.xattr.user.only", b"metadata")
        .file("etc/kept", "kept")
        .file("back", "x");
    let layers = [base, second, third, fourth].map(Layer::bytes);
    for count in 1..=layers.len() {
        compare_with_umoci(&layers[..count], &format!("{count} layers"));
    }
}

#[test]
#[ignore = "minutes, and tools of others: `make image-corpus` runs it"]
fn attributes_of_64_kib() {
    let value: Vec<u8> = (0..65536u32).map(|at| (at % 251) as u8).collect();
    let half: Vec<u8> = value.iter().rev().take(33_000).copied().collect();
    let layer = Layer::new()
        .pax("SCHILY.xattr.user.whole", &value)
        .file("one", "x")
        .pax("SCHILY.xattr.user.half", &half)
        .file("other", "y")
        .pax("SCHILY.xattr.user.whole", &value)
        .directory("directory/");
    compare_with_umoci(&[layer.bytes()], "64 KiB of attributes");
}
