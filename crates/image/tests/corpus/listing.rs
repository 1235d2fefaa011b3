//! All that there is to see of a tree, and how two of them differ.

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

/// What is to be compared. Archives of some formats cannot say everything.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Nanoseconds of times.
    pub nanoseconds: bool,
    /// Extended attributes.
    pub xattrs: bool,
}

impl Scope {
    /// All that there is.
    pub const EVERYTHING: Scope = Scope {
        nanoseconds: true,
        xattrs: true,
    };
}

/// A tree: what is at each path.
pub type Listing = BTreeMap<Vec<u8>, String>;

/// Everything below a directory. What lies in directories of the names `lost+found` at the top
/// is left out: it comes with the file system.
pub fn list(root: &Path, scope: Scope) -> Listing {
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
            let about = statat(directory, &name[..], AtFlags::SYMLINK_NOFOLLOW).unwrap();
            let kind = FileType::from_raw_mode(about.st_mode);
            let mut line = self.line(directory, &name, &about);
            if self.scope.xattrs {
                line.push_str(&xattrs(directory, &name));
            }
            self.listing.insert(path.clone(), line);
            if kind == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let below = openat(directory, &name[..], flags, Mode::empty()).unwrap();
                self.directory(below.as_fd(), &path);
            } else {
                self.links.entry(about.st_ino).or_default().push(path);
            }
        }
    }

    fn line(&self, directory: BorrowedFd<'_>, name: &[u8], about: &Stat) -> String {
        let kind = FileType::from_raw_mode(about.st_mode);
        let contents = match kind {
            FileType::RegularFile => {
                let file = openat(directory, name, OFlags::RDONLY, Mode::empty()).unwrap();
                format!("{} bytes {}", about.st_size, hash(file.into()))
            }
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new()).unwrap();
                target.to_bytes().escape_ascii().to_string()
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                format!("{}:{}", major(about.st_rdev), minor(about.st_rdev))
            }
            _ => String::new(),
        };
        let links = if kind == FileType::Directory {
            0
        } else {
            about.st_nlink
        };
        let nanoseconds = if self.scope.nanoseconds {
            about.st_mtime_nsec
        } else {
            0
        };
        format!(
            "{kind:?} {:o} {}:{} {}.{nanoseconds:09} {links} {contents}",
            about.st_mode & 0o7777,
            about.st_uid,
            about.st_gid,
            about.st_mtime,
        )
    }
}

/// Over every block that is not zeroes, and where it is: holes are not read.
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
    // By way of the descriptor, since a whole path may be longer than the kernel takes.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut names = vec![0; 65536];
    let length = llistxattr(&path[..], &mut names[..]).unwrap();
    let mut said = Vec::new();
    for xattr in names[..length].split(|byte| *byte == 0) {
        if xattr.is_empty() {
            continue;
        }
        let mut value = vec![0; 65536];
        let length = lgetxattr(&path[..], xattr, &mut value[..]).unwrap();
        let value = Sha256::digest(&value[..length]);
        said.push(format!(" {}={length} {value:x}", xattr.escape_ascii()));
    }
    said.sort();
    said.concat()
}

/// Fails with the first differences.
pub fn ensure_same(ours: &Listing, theirs: &Listing, what: &str) {
    let paths: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differences = paths.into_iter().filter_map(|path| {
        let nothing = String::from("nothing");
        let one = ours.get(path).unwrap_or(&nothing);
        let other = theirs.get(path).unwrap_or(&nothing);
        let path = path.escape_ascii();
        (one != other).then(|| format!("{path}\n   ours: {one}\n theirs: {other}\n"))
    });
    let differences: Vec<String> = differences.take(10).collect();
    assert!(
        differences.is_empty(),
        "{what} differs:\n{}",
        differences.concat()
    );
    println!("{what}: {} entries are the same", ours.len());
}
