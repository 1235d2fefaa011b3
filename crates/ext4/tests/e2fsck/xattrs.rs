//! Extended attributes of all sizes, read back with `debugfs`.

use crate::image::image;
use container_ext4::{Metadata, Writer};

const SIZE: u64 = 1 << 30;

fn metadata_with(xattrs: &[(&str, Vec<u8>)]) -> Metadata {
    let xattrs = xattrs.iter();
    Metadata {
        xattrs: xattrs
            .map(|(name, value)| (name.as_bytes().to_vec(), value.clone()))
            .collect(),
        ..Metadata::file(0o644)
    }
}

fn file(writer: &mut Writer, path: &str, xattrs: &[(&str, Vec<u8>)]) {
    let mut contents = &b"contents"[..];
    writer
        .file(path.as_bytes(), &metadata_with(xattrs), &mut contents)
        .unwrap();
}

/// Returns letters without a period, so that a value with misplaced blocks is not equal.
fn value(length: usize, seed: u8) -> Vec<u8> {
    let letters = (0..length).map(|at| b'a' + ((at * at + at / 7 + usize::from(seed)) % 26) as u8);
    letters.collect()
}

#[test]
fn values_of_64_kib_are_stored_in_inodes_of_their_own() {
    let long = value(65536, 1);
    let other = value(65536, 2);
    let image = image(SIZE, |writer| {
        file(writer, "one", &[("user.long", long.clone())]);
        // The inode and the block have room for some of these.
        let many = [
            ("user.long", long.clone()),
            ("user.other", other.clone()),
            ("user.again", long.clone()),
            ("security.capability", vec![1; 20]),
            ("trusted.middle", value(3500, 3)),
            ("user.small", b"small".to_vec()),
            ("user.empty", Vec::new()),
        ];
        file(writer, "many", &many);
        writer
            .directory(
                b"directory",
                &metadata_with(&[("user.long", value(5000, 4))]),
            )
            .unwrap();
        writer
            .symlink(
                b"symlink",
                &metadata_with(&[("trusted.long", value(3000, 5))]),
                b"one",
            )
            .unwrap();
        for number in 0..1000 {
            file(
                writer,
                &format!("shared/{number}"),
                &[("user.x", long.clone())],
            );
        }
    });
    let read = |path: &str, name: &str| {
        let to = image.path.with_extension("value");
        image.debugfs(&format!("ea_get -f {} {path} {name}", to.display()));
        std::fs::read(to).unwrap()
    };
    assert!(read("/one", "user.long") == long);
    assert!(read("/many", "user.other") == other);
    assert!(read("/many", "user.again") == long);
    assert!(read("/many", "trusted.middle") == value(3500, 3));
    assert!(read("/many", "user.small") == b"small");
    assert!(read("/directory", "user.long") == value(5000, 4));
    assert!(read("/symlink", "trusted.long") == value(3000, 5));
    assert!(read("/shared/999", "user.x") == long);
    assert!(image.debugfs("features").contains("ea_inode"));
}

#[test]
fn feature_ea_inode_is_set_only_if_used() {
    let image = image(SIZE, |writer| {
        file(writer, "file", &[("user.long", value(3900, 1))]);
    });
    assert!(!image.debugfs("features").contains("ea_inode"));
}

#[test]
fn attributes_that_do_not_fit_are_refused() {
    let named = |count: usize| -> Metadata {
        let names: Vec<String> = (0..count)
            .map(|number| format!("user.{number:0200}"))
            .collect();
        let xattrs: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), vec![1; 3000]))
            .collect();
        metadata_with(&xattrs)
    };
    let image = image(SIZE, |writer| {
        let long = metadata_with(&[("trusted.long", value(9000, 5))]);
        assert!(writer.symlink(b"refused", &long, b"target").is_err());
        writer.file(b"full", &named(18), &mut &b""[..]).unwrap();
        for refused in [
            named(30),
            named(20_000),
            metadata_with(&[("user.x", vec![0; 65537])]),
            metadata_with(&[("user.", vec![0])]),
            metadata_with(&[("unknown.x", vec![0])]),
            metadata_with(&[("system.posix_acl_access", vec![0; 3])]),
            metadata_with(&[("user.x", vec![0]), ("user.x", vec![1])]),
            metadata_with(&[(&format!("user.{}", "n".repeat(256)), vec![0])]),
        ] {
            let error = writer
                .file(b"refused", &refused, &mut &b""[..])
                .unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("extended attributes of refused: "),
                "{error}"
            );
        }
    });
    assert!(image.debugfs("stat /refused").contains("not found"));
    let number = "0".repeat(198) + "17";
    assert!(
        image
            .debugfs(&format!("ea_get /full user.{number}"))
            .contains("(3000)")
    );
}
