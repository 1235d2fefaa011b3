//! The comparisons: with the source tree of an archive, and with umoci.

use std::io::{Read, repeat};

use tar::Header;

use super::{
    disk::Disk,
    listing::{Scope, ensure_same, list},
    sources::{self, SourceTree},
    umoci,
    writers::TarWriter,
};
use crate::unpack::tests::layer_builder::LayerBuilder;

/// Compares the file system made from a tree's archive with the tree.
fn compare_with_source(source: &SourceTree, writers: &[TarWriter]) {
    for writer in writers {
        let disk = Disk::from_layers([writer.archive(source.path())]);
        let Some(mounted) = disk.mount() else {
            continue;
        };
        let ours = list(mounted.path(), writer.scope());
        let theirs = list(source.path(), writer.scope());
        ensure_same(&ours, &theirs, &format!("{writer:?} and its source"));
    }
}

/// Compares the file system made from layers with the tree that umoci unpacks from them.
fn compare_with_umoci(layers: &[Vec<u8>], what: &str) {
    let disk = Disk::from_layers(layers.iter().map(Vec::as_slice));
    let (Some(mounted), Some(unpacked)) = (disk.mount(), umoci::unpack_layers(layers)) else {
        return;
    };
    let mut ours = list(mounted.path(), Scope::EVERYTHING);
    let mut theirs = list(&unpacked.path().join("tree"), Scope::EVERYTHING);
    // umoci's timestamps are 64-bit nanoseconds, which end in 2262. `compare_with_source` covers
    // it.
    for listing in [&mut ours, &mut theirs] {
        listing.remove(&b"/times/2400"[..]);
    }
    ensure_same(&ours, &theirs, what);
}

const QUICK: [TarWriter; 2] = [TarWriter::Gnu, TarWriter::GnuPax("1.0")];

#[test]
fn small_trees_from_gnu_tar_are_unpacked() {
    compare_with_source(&sources::kinds(), &QUICK);
    compare_with_source(&sources::xattrs(), &QUICK);
    compare_with_source(&sources::before_1970(), &[TarWriter::GnuPax("0.1")]);
    compare_with_source(&sources::one_directory(3000), &QUICK);
    compare_with_source(&sources::deep(300), &QUICK);
    compare_with_source(&sources::hard_links(3, 100), &QUICK);
    compare_with_source(&sources::holes(64 << 20), &QUICK);
}

#[test]
#[ignore = "takes minutes and needs other programs; run by `make image-corpus`"]
fn every_member_kind_of_every_writer_is_unpacked() {
    for source in [sources::kinds(), sources::xattrs(), sources::holes(8 << 30)] {
        compare_with_source(&source, &TarWriter::ALL);
    }
    // Not `xattrs`: umoci leaves out empty attributes.
    let source = sources::kinds();
    for writer in TarWriter::ALL {
        let archive = writer.archive(source.path()).into_bytes();
        compare_with_umoci(&[archive], &format!("{writer:?} and umoci"));
    }
}

#[test]
#[ignore = "takes minutes and needs other programs; run by `make image-corpus`"]
fn very_many_files_names_and_levels_are_unpacked() {
    let writers = [TarWriter::Gnu, TarWriter::Bsd];
    compare_with_source(&sources::one_directory(100_000), &writers);
    compare_with_source(&sources::small_files(200_000), &writers);
    compare_with_source(&sources::hard_links(1, 65_000), &writers);
    compare_with_source(&sources::hard_links(2000, 30), &writers);
    compare_with_source(
        &sources::deep(600),
        &[TarWriter::Gnu, TarWriter::GnuPax("1.0")],
    );
}

#[test]
#[ignore = "takes minutes and needs other programs; run by `make image-corpus`"]
fn a_file_larger_than_4_gib_is_unpacked() {
    const SIZE: u64 = (4 << 30) + 12_345;
    let mut header = Header::new_ustar();
    header.set_path("large").unwrap();
    header.set_size(SIZE);
    header.set_mode(0o644);
    header.set_cksum();
    let archive = header.as_bytes().chain(repeat(7).take(SIZE));
    let padding = repeat(0).take(SIZE.wrapping_neg() % 512 + 1024);
    let disk = Disk::from_layers([archive.chain(padding)]);
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

#[test]
#[ignore = "takes minutes and needs other programs; run by `make image-corpus`"]
fn upper_layers_change_lower_ones_as_in_umoci() {
    let base = LayerBuilder::new()
        .distinct_times()
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
    let second = LayerBuilder::new()
        .distinct_times()
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
    let third = LayerBuilder::new()
        .distinct_times()
        .file(".wh.swap", "")
        .file(".wh.first", "")
        .hard_link("fourth", "third")
        .file("etc/.wh.not-there", "");
    let fourth = LayerBuilder::new()
        .distinct_times()
        .directory("swap/")
        .file("swap/again", "a directory once more")
        .pax("SCHILY.xattr.user.only", b"metadata")
        .file("etc/kept", "kept")
        .file("back", "x");
    let layers = [base, second, third, fourth].map(LayerBuilder::bytes);
    for count in 1..=layers.len() {
        compare_with_umoci(&layers[..count], &format!("{count} layers"));
    }
}

#[test]
#[ignore = "takes minutes and needs other programs; run by `make image-corpus`"]
fn attributes_of_64_kib_are_kept() {
    let value: Vec<u8> = (0..65536u32).map(|at| (at % 251) as u8).collect();
    let half: Vec<u8> = value.iter().rev().take(33_000).copied().collect();
    let layer = LayerBuilder::new()
        .distinct_times()
        .pax("SCHILY.xattr.user.whole", &value)
        .file("one", "x")
        .pax("SCHILY.xattr.user.half", &half)
        .file("other", "y")
        .pax("SCHILY.xattr.user.whole", &value)
        .directory("directory/");
    compare_with_umoci(&[layer.bytes()], "64 KiB of attributes");
}
