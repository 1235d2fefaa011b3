//! Trees on the host that archives are made from.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, lsetxattr, makedev,
    mkdirat, mknodat, openat, utimensat,
};
use tempfile::TempDir;

use super::disk::work_directory;

/// A tree in a temporary directory.
pub(crate) struct SourceTree(TempDir);

impl SourceTree {
    pub(crate) fn new() -> SourceTree {
        SourceTree(tempfile::tempdir_in(work_directory()).unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn at(&self, name: &[u8]) -> PathBuf {
        self.path().join(std::ffi::OsStr::from_bytes(name))
    }

    fn file(&self, name: &[u8], contents: &[u8]) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }
}

/// Files of every type, with extreme timestamps, owners, device numbers and names.
pub(crate) fn kinds() -> SourceTree {
    let source = SourceTree::new();
    source.file(b"plain", b"contents");
    source.file(b"empty", b"");
    source.file("d\u{e9}j\u{e0} vu \u{1f980}".as_bytes(), b"utf-8");
    source.file(b"not utf-8 \xff\xfe\x80", b"bytes");
    source.file(b"line\nfeed and \\ and \"", b"awkward");
    source.file(&[b'n'; 255], b"255 bytes");
    source.file(
        &[&[b'd'; 255][..], b"/", &[0xc3; 255][..]].concat(),
        b"both",
    );
    for (name, mode) in [("set-uid", 0o4755), ("set-gid", 0o2755), ("none", 0)] {
        let path = source.file(name.as_bytes(), b"mode");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = source.at(b"sticky");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).unwrap();
    for (name, owner) in [("small", 1), ("16 bits", 65_534), ("large", 4_000_000_000)] {
        let path = source.file(format!("owners/{name}").as_bytes(), b"owner");
        std::os::unix::fs::chown(path, Some(owner), Some(owner - 1)).unwrap();
    }
    symlink("plain", source.at(b"short link")).unwrap();
    for length in [59, 60, 100, 101, 4000] {
        let name = format!("link of {length}");
        symlink("t".repeat(length), source.at(name.as_bytes())).unwrap();
    }
    for (name, kind, numbers) in [
        ("fifo", FileType::Fifo, (0, 0)),
        ("null", FileType::CharacterDevice, (1, 3)),
        ("edge", FileType::CharacterDevice, (255, 255)),
        ("beyond", FileType::CharacterDevice, (256, 256)),
        ("large", FileType::BlockDevice, (511, 70_000)),
        ("disk", FileType::BlockDevice, (8, 1)),
    ] {
        fs::create_dir_all(source.at(b"dev")).unwrap();
        let path = source.at(format!("dev/{name}").as_bytes());
        let device = makedev(numbers.0, numbers.1);
        mknodat(CWD, path, kind, Mode::from_bits_truncate(0o640), device).unwrap();
    }
    fs::hard_link(source.at(b"plain"), source.at(b"another name")).unwrap();
    fs::hard_link(source.at(b"fifo"), source.at(b"pipe")).unwrap_or_default();
    times(&source);
    source
}

fn times(source: &SourceTree) {
    for (name, seconds, nanoseconds) in [
        ("1970", 0, 0),
        ("before", -1, 0),
        ("1901", -(1 << 31) + 1, 0),
        ("2038", 1 << 31, 500_000_000),
        ("2106", 1 << 32, 123_456_789),
        ("2400", 13_569_465_600, 7),
    ] {
        let path = source.file(format!("times/{name}").as_bytes(), b"time");
        set_time(&path, seconds, nanoseconds);
    }
    set_time(&source.at(b"times"), 981_173_106, 10);
}

/// Timestamps before 1970 with fractions. A tree of their own, since libarchive writes them
/// wrongly: as negative seconds followed by a positive fraction.
pub(crate) fn before_1970() -> SourceTree {
    let source = SourceTree::new();
    for (name, seconds, nanoseconds) in [("a", -1, 999_999_999), ("b", -1_000_000, 1)] {
        let path = source.file(name.as_bytes(), b"time");
        set_time(&path, seconds, nanoseconds);
    }
    source
}

fn set_time(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Extended attributes as large as the host stores them, file capabilities, and ACLs.
pub(crate) fn xattrs() -> SourceTree {
    let source = SourceTree::new();
    let set = |path: &Path, name: &str, value: &[u8]| {
        lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    let ping = source.file(b"ping", b"program");
    let capability = [&[1, 0, 0, 2, 0, 0x20, 0, 0][..], &[0; 12]].concat();
    set(&ping, "security.capability", &capability);
    let many = source.file(b"many", b"attributes");
    for number in 0..30 {
        set(&many, &format!("user.number{number}"), &[number; 60]);
    }
    let odd = source.file(b"odd", b"attributes");
    set(&odd, "user.line\nfeed", b"a\nb=c\n\0d");
    set(&odd, "user.empty", b"");
    set(&odd, "trusted.overlay.y", b"trusted");
    let large = source.file(b"large", b"attributes");
    set(&large, "user.large", &[b'l'; 3800]);
    // POSIX ACL, version 2: entries of tag, permissions and ID (linux/posix_acl_xattr.h).
    let list = |entries: &[(u16, u16, u32)]| {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&permissions.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    };
    let nobody = u32::MAX;
    let access = list(&[
        (0x01, 6, nobody),
        (0x02, 4, 1234),
        (0x04, 4, nobody),
        (0x08, 5, 70_000),
        (0x10, 7, nobody),
        (0x20, 0, nobody),
    ]);
    let directory = source.at(b"directory");
    fs::create_dir(&directory).unwrap();
    set(&directory, "system.posix_acl_access", &access);
    set(&directory, "system.posix_acl_default", &access);
    set(&odd, "system.posix_acl_access", &access);
    set(&directory, "user.on.directory", b"value");
    source
}

/// One directory with `count` files, some with names of 255 bytes.
pub(crate) fn one_directory(count: usize) -> SourceTree {
    let source = SourceTree::new();
    fs::create_dir(source.at(b"many")).unwrap();
    for number in 0..count {
        let name = match number % 50 {
            0 => format!("many/{number:0255}"),
            _ => format!("many/{number}"),
        };
        File::create(source.at(name.as_bytes())).unwrap();
    }
    source
}

/// `count` small files, 200 in each directory.
pub(crate) fn small_files(count: usize) -> SourceTree {
    let source = SourceTree::new();
    for number in 0..count {
        let directory = format!("usr/share/{}", number / 200);
        if number % 200 == 0 {
            fs::create_dir_all(source.at(directory.as_bytes())).unwrap();
        }
        let path = format!("{directory}/file {number}");
        fs::write(source.at(path.as_bytes()), path.repeat(number % 90)).unwrap();
    }
    source
}

/// Nested directories, deeper than PATH_MAX for larger depths.
pub(crate) fn deep(depth: usize) -> SourceTree {
    let source = SourceTree::new();
    let mut at = openat(CWD, source.path(), OFlags::RDONLY, Mode::empty()).unwrap();
    for level in 0..depth {
        let name = format!("level {level:04} of a deep tree");
        mkdirat(&at, &name, Mode::from_bits_truncate(0o755)).unwrap();
        at = openat(&at, &name, OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let file = openat(&at, "bottom", flags, Mode::from_bits_truncate(0o644)).unwrap();
    File::from(file).write_all(b"bottom").unwrap();
    source
}

/// Files with `names` hard links each.
pub(crate) fn hard_links(files: usize, names: usize) -> SourceTree {
    let source = SourceTree::new();
    for file in 0..files {
        let first = source.file(format!("{file}/first").as_bytes(), &[1; 5000]);
        for name in 1..names {
            let path = format!("{file}/{}/{name}", name % 7);
            if name <= 7 {
                fs::create_dir_all(source.at(format!("{file}/{}", name % 7).as_bytes())).unwrap();
            }
            fs::hard_link(&first, source.at(path.as_bytes())).unwrap();
        }
    }
    source
}

/// Sparse files; the largest has `size` bytes.
pub(crate) fn holes(size: u64) -> SourceTree {
    let source = SourceTree::new();
    let mut file = File::create(source.at(b"large")).unwrap();
    for place in [0, 12_345, size / 3, size / 2, size - 4096 * 5, size - 1] {
        file.seek(SeekFrom::Start(place)).unwrap();
        file.write_all(b"x").unwrap();
    }
    let file = File::create(source.at(b"nothing")).unwrap();
    file.set_len(size).unwrap();
    let mut file = File::create(source.at(b"scattered")).unwrap();
    for number in 0..2000 {
        file.seek(SeekFrom::Start(number * 16_384)).unwrap();
        file.write_all(&[7; 4096]).unwrap();
    }
    file.set_len(2000 * 16_384 + 77).unwrap();
    source
}
