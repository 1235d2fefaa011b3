//! Listings of trees with everything that a program can observe, and their differences.

use std::{
    collections::BTreeMap,
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::FileExt,
    },
    path::Path,
};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, lgetxattr, llistxattr, major, minor,
    openat, readlinkat, seek, statat,
};
use sha2::{Digest, Sha256};

/// What is compared: some archive formats cannot store everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    /// Nanoseconds of timestamps.
    pub(crate) nanoseconds: bool,
    /// Extended attributes.
    pub(crate) xattrs: bool,
}

impl Scope {
    pub(crate) const EVERYTHING: Scope = Scope {
        nanoseconds: true,
        xattrs: true,
    };
}

/// Description of each path of a tree.
pub(crate) type Listing = BTreeMap<Vec<u8>, String>;

/// Lists everything below a directory except the top `lost+found`, which comes with the file
/// system.
pub(crate) fn list(root: &Path, scope: Scope) -> Listing {
    let directory = File::open(root).unwrap();
    let mut walk = Walk {
        scope,
        listing: Listing::new(),
        links: BTreeMap::new(),
    };
    walk.directory(directory.as_fd(), b"");
    let links = walk.links.into_values().filter(|paths| paths.len() > 1);
    for paths in links {
        let first = paths[0].escape_ascii().to_string();
        for path in paths {
            let line = walk.listing.get_mut(&path).unwrap();
            line.push_str(&format!(" same as {first}"));
        }
    }
    walk.listing
}

struct Walk {
    scope: Scope,
    listing: Listing,
    links: BTreeMap<u64, Vec<Vec<u8>>>,
}

impl Walk {
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &[u8]) {
        let mut names: Vec<Vec<u8>> = Dir::read_from(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
            .filter(|name| name != b"." && name != b"..")
            .filter(|name| !(path.is_empty() && name == b"lost+found"))
            .collect();
        names.sort();
        for name in names {
            let path = [path, b"/", &name].concat();
            let stat = statat(directory, &name[..], AtFlags::SYMLINK_NOFOLLOW).unwrap();
            let kind = FileType::from_raw_mode(stat.st_mode);
            let mut line = self.line(directory, &name, &stat);
            if self.scope.xattrs {
                line.push_str(&xattrs(directory, &name));
            }
            self.listing.insert(path.clone(), line);
            if kind == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let below = openat(directory, &name[..], flags, Mode::empty()).unwrap();
                self.directory(below.as_fd(), &path);
            } else {
                self.links.entry(stat.st_ino).or_default().push(path);
            }
        }
    }

    fn line(&self, directory: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> String {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let contents = match kind {
            FileType::RegularFile => {
                let file = openat(directory, name, OFlags::RDONLY, Mode::empty()).unwrap();
                format!("{} bytes {}", stat.st_size, hash(file.into()))
            }
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new()).unwrap();
                target.to_bytes().escape_ascii().to_string()
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                format!("{}:{}", major(stat.st_rdev), minor(stat.st_rdev))
            }
            _ => String::new(),
        };
        let links = if kind == FileType::Directory {
            0
        } else {
            stat.st_nlink
        };
        let nanoseconds = if self.scope.nanoseconds {
            stat.st_mtime_nsec
        } else {
            0
        };
        format!(
            "{kind:?} {:o} {}:{} {}.{nanoseconds:09} {links} {contents}",
            stat.st_mode & 0o7777,
            stat.st_uid,
            stat.st_gid,
            stat.st_mtime,
        )
    }
}

/// Hashes the blocks that are not zero, with their offsets. Holes are skipped, as files may have
/// terabytes of them.
fn hash(file: File) -> String {
    let mut hasher = Sha256::new();
    let mut block = [0; 4096];
    let mut at = 0;
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        at = data / 4096 * 4096;
        loop {
            let count = file.read_at(&mut block, at).unwrap();
            if count == 0 || block[..count].iter().all(|byte| *byte == 0) {
                break;
            }
            hasher.update(at.to_le_bytes());
            hasher.update(&block[..count]);
            at += 4096;
        }
        at += 4096;
    }
    format!("{:x}", hasher.finalize())
}

fn xattrs(directory: BorrowedFd<'_>, name: &[u8]) -> String {
    // Relative to the descriptor, since the whole path may be longer than PATH_MAX.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut names = vec![0; 65536];
    let length = llistxattr(&path[..], &mut names[..]).unwrap();
    let mut lines = Vec::new();
    for xattr in names[..length].split(|byte| *byte == 0) {
        if xattr.is_empty() {
            continue;
        }
        let mut value = vec![0; 65536];
        let length = lgetxattr(&path[..], xattr, &mut value[..]).unwrap();
        let value = Sha256::digest(&value[..length]);
        lines.push(format!(" {}={length} {value:x}", xattr.escape_ascii()));
    }
    lines.sort();
    lines.concat()
}

/// Panics with the first ten differences, if there are any.
pub(crate) fn ensure_same(ours: &Listing, theirs: &Listing, what: &str) {
    let paths: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differences = paths.into_iter().filter_map(|path| {
        let missing = String::from("missing");
        let one = ours.get(path).unwrap_or(&missing);
        let other = theirs.get(path).unwrap_or(&missing);
        let path = path.escape_ascii();
        (one != other).then(|| format!("{path}\n   ours: {one}\n theirs: {other}\n"))
    });
    let differences: Vec<String> = differences.take(10).collect();
    assert!(
        differences.is_empty(),
        "{what} differs:\n{}",
        differences.concat()
    );
    println!("{what}: {} entries are equal", ours.len());
}
