//! Entries of all types, holes, indexed directories, layers and errors.

use std::io::Read;

use crate::image::{image, image_with};
use container_ext4::{Metadata, Options, SpecialFile, Timestamp, Writer};

const SMALL: u64 = 1 << 30;

#[test]
fn an_empty_image_of_512_gib_uses_less_than_16_mib() {
    use std::os::unix::fs::MetadataExt;
    let image = image(512 << 30, |_| ());
    let metadata = std::fs::metadata(&image.path).unwrap();
    assert_eq!(metadata.len(), 512 << 30);
    let blocks = metadata.blocks();
    assert!(blocks * 512 < 16 << 20, "{blocks} blocks");
}

#[test]
fn files_of_all_types_are_read_back() {
    let mtime = Timestamp {
        seconds: 4_000_000_000,
        nanoseconds: 123_456_789,
    };
    let metadata = Metadata {
        mode: 0o4751,
        uid: 70_000,
        gid: 80_000,
        mtime,
        xattrs: vec![
            (
                b"security.capability".to_vec(),
                vec![1, 0, 0, 2, 0, 4, 0, 0],
            ),
            (b"user.long".to_vec(), vec![b'x'; 3000]),
            (b"user.short".to_vec(), b"y".to_vec()),
        ],
    };
    let image = image(SMALL, |writer| {
        writer
            .file(b"/bin/tool", &metadata, &mut &b"contents"[..])
            .unwrap();
        writer.hard_link(b"bin/same", b"bin/tool").unwrap();
        writer
            .symlink(b"short", &Metadata::file(0o777), b"bin/tool")
            .unwrap();
        writer
            .symlink(b"long", &Metadata::file(0o777), &[b'l'; 4000])
            .unwrap();
        let (major, minor) = (5, 1);
        writer
            .special(
                b"dev/tty",
                &Metadata::file(0o620),
                SpecialFile::CharDevice { major, minor },
            )
            .unwrap();
        let (major, minor) = (259, 70_000);
        writer
            .special(
                b"dev/disk",
                &Metadata::file(0o660),
                SpecialFile::BlockDevice { major, minor },
            )
            .unwrap();
        writer
            .special(b"fifo", &Metadata::file(0o600), SpecialFile::Fifo)
            .unwrap();
        writer
            .special(b"socket", &Metadata::file(0o600), SpecialFile::Socket)
            .unwrap();
    });
    assert_eq!(image.contents("/bin/same"), b"contents");
    let stat = image.debugfs("stat /bin/tool");
    for expected in [
        "Mode:  04751",
        "User: 70000",
        "Group: 80000",
        "Links: 2",
        "Size: 8",
        "mtime: 0xee6b2800:1d6f3455",
    ] {
        assert!(stat.contains(expected), "{expected}: {stat}");
    }
    assert!(image.debugfs("ea_get /bin/tool user.short").contains('y'));
    assert!(
        image
            .debugfs("ea_get /bin/tool user.long")
            .contains(&"x".repeat(3000))
    );
    assert!(
        image
            .debugfs("stat /dev/disk")
            .contains("major/minor number: 259:70000"),
        "{}",
        image.debugfs("stat /dev/disk")
    );
    assert!(image.debugfs("stat /dev/tty").contains("05:01"));
    assert!(image.debugfs("stat /short").contains("bin/tool"));
    assert_eq!(image.contents("/long").len(), 4000);
    assert!(
        image.debugfs("stat /fifo").contains("FIFO")
            && image.debugfs("stat /socket").contains("socket")
    );
}

#[test]
fn names_in_a_directory_of_100_000_are_found_by_hash() {
    let image = image(4 << 30, |writer| {
        for number in 0..100_000 {
            let path =
                format!("many/a name that is rather long, so that there are many blocks {number}");
            writer
                .file(path.as_bytes(), &Metadata::file(0o644), &mut &b""[..])
                .unwrap();
        }
        for number in 0..300 {
            let path = format!("wide/{number:0255}");
            writer
                .directory(path.as_bytes(), &Metadata::file(0o755))
                .unwrap();
        }
    });
    assert!(
        image
            .debugfs("htree_dump /many")
            .contains("Indirect levels: 1")
    );
    let found = image
        .debugfs("stat \"/many/a name that is rather long, so that there are many blocks 99999\"");
    assert!(found.contains("Type: regular"), "{found}");
    assert!(image.debugfs("stat /wide").contains("Links: 302"));
}

#[test]
fn holes_are_kept_and_scattered_blocks_are_mapped() {
    use std::os::unix::fs::MetadataExt;
    // Every other block is a hole, so the file has 1500 extents, which do not fit into the inode.
    let mut scattered = vec![0; 4096 * 2 * 1500];
    for block in scattered.chunks_mut(8192) {
        block[..4096].fill(7);
    }
    let image = image(8 << 30, |writer| {
        writer
            .file(b"scattered", &Metadata::file(0o644), &mut &scattered[..])
            .unwrap();
        let mut zeroes = std::io::repeat(0).take((3 << 30) + 5);
        writer
            .file(b"hole", &Metadata::file(0o644), &mut zeroes)
            .unwrap();
        let mut large = std::io::repeat(9).take(200 << 20);
        writer
            .file(b"large", &Metadata::file(0o644), &mut large)
            .unwrap();
    });
    assert!(image.contents("/scattered") == scattered);
    assert!(image.debugfs("stat /hole").contains("Size: 3221225477"));
    assert!(image.contents("/large").iter().all(|byte| *byte == 9));
    let blocks = std::fs::metadata(&image.path).unwrap().blocks();
    assert!(blocks * 512 < 230 << 20, "{blocks}");
}

#[test]
fn replaced_and_whited_out_files_are_removed_with_their_blocks() {
    let image = image(SMALL, |writer| {
        let mut large = std::io::repeat(1).take(50 << 20);
        writer
            .file(b"dir/large", &Metadata::file(0o644), &mut large)
            .unwrap();
        writer
            .file(b"dir/kept", &Metadata::file(0o644), &mut &b"kept"[..])
            .unwrap();
        writer
            .file(b"swapped/x", &Metadata::file(0o644), &mut &b"x"[..])
            .unwrap();
        writer.hard_link(b"also kept", b"dir/kept").unwrap();
        writer.begin_layer();
        writer
            .file(b"dir/new", &Metadata::file(0o644), &mut &b"new"[..])
            .unwrap();
        writer.make_opaque(b"dir").unwrap();
        writer.white_out(b"not there/at all").unwrap();
        writer
            .file(b"swapped", &Metadata::file(0o644), &mut &b"a file now"[..])
            .unwrap();
    });
    assert!(image.debugfs("stat /dir/large").contains("not found"));
    assert!(image.debugfs("stat /dir/kept").contains("not found"));
    assert_eq!(image.contents("/dir/new"), b"new");
    assert_eq!(image.contents("\"/also kept\""), b"kept");
    assert_eq!(image.contents("/swapped"), b"a file now");
}

#[test]
fn failed_calls_leave_existing_entries_unchanged() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            buffer.fill(1);
            Err(std::io::Error::other("broken"))
        }
    }
    let image = image(SMALL, |writer| {
        writer
            .file(b"file", &Metadata::file(0o644), &mut &b"old"[..])
            .unwrap();
        assert!(
            writer
                .file(b"file", &Metadata::file(0o644), &mut Broken)
                .is_err()
        );
        assert!(writer.hard_link(b"link", b"nowhere").is_err());
        assert!(writer.hard_link(b"link", b"/").is_err());
        assert!(
            writer
                .file(b"file/below", &Metadata::file(0o644), &mut &b""[..])
                .is_err()
        );
        assert!(writer.symlink(b"s", &Metadata::file(0o777), b"").is_err());
        assert!(
            writer
                .file(b"/", &Metadata::file(0o644), &mut &b""[..])
                .is_err()
        );
        let metadata = Metadata {
            xattrs: vec![(b"user.x".to_vec(), vec![0; 65537])],
            ..Metadata::default()
        };
        assert!(writer.directory(b"d", &metadata).is_err());
    });
    assert_eq!(image.contents("/file"), b"old");
    assert!(image.debugfs("stat /link").contains("not found"));
}

#[test]
fn a_file_larger_than_the_image_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        size: 256 << 20,
        ..Options::default()
    };
    let mut writer = Writer::create(&directory.path().join("small"), &options).unwrap();
    let mut large = std::io::repeat(1).take(300 << 20);
    let error = writer
        .file(b"large", &Metadata::file(0o644), &mut large)
        .unwrap_err();
    assert!(matches!(error, container_ext4::WriteError::Full), "{error}");
}

#[test]
fn files_of_different_sizes_do_not_overlap() {
    let contents = |number: usize| -> Vec<u8> {
        let size = [1, 5000, 300_000, 600_000, 1 << 20, 2_500_000][number % 6];
        vec![number as u8 | 1; size + number]
    };
    let image = image(SMALL, |writer| {
        for number in 0..60 {
            let path = format!("file{number}");
            writer
                .file(
                    path.as_bytes(),
                    &Metadata::file(0o644),
                    &mut &contents(number)[..],
                )
                .unwrap();
        }
    });
    for number in 0..60 {
        assert!(
            image.contents(&format!("/file{number}")) == contents(number),
            "{number}"
        );
    }
}

#[test]
fn with_a_uuid_of_zeroes_names_have_the_default_hash_seed() {
    let options = Options {
        size: SMALL,
        uuid: uuid::Uuid::nil(),
        ..Options::default()
    };
    image_with(&options, |writer| {
        for number in 0..1000 {
            let path = format!("many/name {number}");
            writer
                .special(path.as_bytes(), &Metadata::file(0o600), SpecialFile::Fifo)
                .unwrap();
        }
    });
}

#[test]
fn blocks_are_reserved_for_root() {
    for (size, expected) in [(512 << 20, 1_310), (1 << 30, 2_621), (64 << 30, 32_768)] {
        let stats = image(size, |_| {}).debugfs("stats");
        let reserved = stats
            .lines()
            .find_map(|line| line.strip_prefix("Reserved block count:"));
        assert_eq!(reserved.unwrap().trim(), expected.to_string(), "{stats}");
    }
}
