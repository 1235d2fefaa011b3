//! Directories that the guest does not see as they are on the host.
//!
//! An *excluded* directory is answered as an empty one that nobody can change. If it is *hidden*,
//! it exists only where the host has it. If it is *private*, it always exists, also if directories
//! above it are missing on the host: the machine mounts a directory of its own there, and needs a
//! mount point that does not change. The directories above both are *ancestors*.
//!
//! ```text
//! share root ─ .local ─ share ─┬─ container   hidden
//!   (ancestors)                └─ containers  private
//! ```
//!
//! Each place has a guest inode number that never changes, whatever the host has there, because
//! the guest's kernel unmounts what is mounted below a directory that became another one.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::unistd::{getegid, geteuid};
use virtiofsd::{
    filesystem::{DirEntry, DirectoryIterator, Entry},
    fuse::Attr,
    soft_idmap::{GuestGid, GuestUid},
};

use crate::table::{GuestInode, ROOT};

/// First guest inode number of places. Other files never reach it.
const FIRST_NUMBER: u64 = 1 << 62;

/// First inode number that the guest's programs see. It fits into 32 bits for old programs.
const FIRST_VISIBLE_NUMBER: u64 = 0xfff0_0000;

/// Directory handle of an excluded directory. The inner file system counts its handles up from 0.
pub(crate) const HANDLE: u64 = u64::MAX;

/// Directories of a share that the guest does not see as they are on the host. The paths are
/// relative to the shared directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Directories that the guest sees as empty, where they exist.
    pub hidden: Vec<PathBuf>,
    /// Directories that the guest sees as empty, whether or not they exist. It mounts its own
    /// there.
    pub private: Vec<PathBuf>,
}

/// The number of a place, an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place(usize);

/// The way in which a place differs from an ordinary directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaceKind {
    /// A directory that contains places. It is the host's.
    Ancestor {
        /// Whether it exists in the guest even if it is missing on the host.
        is_required: bool,
    },
    /// An excluded directory that exists where the host has it.
    Hidden,
    /// An excluded directory that always exists.
    Private,
}

/// The places of a share.
#[derive(Debug)]
pub(crate) struct Places {
    nodes: Vec<Node>,
    /// Time of creation, which all timestamps of excluded directories have.
    created: Duration,
}

#[derive(Debug)]
struct Node {
    kind: PlaceKind,
    parent: GuestInode,
    name: CString,
    children: HashMap<CString, Place>,
}

impl Default for Places {
    fn default() -> Places {
        Places::new(&Exclusions::default())
    }
}

impl Places {
    /// Arranges the exclusions. A path that is not below the shared directory is ignored, as is one
    /// below another excluded one.
    pub(crate) fn new(exclusions: &Exclusions) -> Places {
        let root = Node {
            kind: PlaceKind::Ancestor { is_required: true },
            parent: ROOT,
            name: CString::default(),
            children: HashMap::new(),
        };
        let mut places = Places {
            nodes: vec![root],
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        };
        for path in &exclusions.private {
            places.insert(path, PlaceKind::Private);
        }
        for path in &exclusions.hidden {
            places.insert(path, PlaceKind::Hidden);
        }
        places
    }

    fn insert(&mut self, path: &Path, kind: PlaceKind) {
        let Some(names) = names(path) else {
            return;
        };
        let is_private = kind == PlaceKind::Private;
        let mut at = Place(0);
        for (number, name) in names.iter().enumerate() {
            let is_last = number + 1 == names.len();
            let wanted = if is_last {
                kind
            } else {
                PlaceKind::Ancestor {
                    is_required: is_private,
                }
            };
            at = self.child_or_insert(at, name, wanted);
            let node = &mut self.nodes[at.0];
            match (&mut node.kind, is_last) {
                (PlaceKind::Ancestor { is_required }, false) => *is_required |= is_private,
                // It contains places and is excluded itself.
                (PlaceKind::Ancestor { .. }, true) => {
                    node.kind = kind;
                    node.children.clear();
                }
                // This path is excluded already, or is below one that is.
                (PlaceKind::Hidden | PlaceKind::Private, _) => return,
            }
        }
    }

    fn child_or_insert(&mut self, parent: Place, name: &CStr, kind: PlaceKind) -> Place {
        if let Some(child) = self.nodes[parent.0].children.get(name) {
            return *child;
        }
        let child = Place(self.nodes.len());
        self.nodes.push(Node {
            kind,
            parent: parent.inode(),
            name: name.to_owned(),
            children: HashMap::new(),
        });
        self.nodes[parent.0].children.insert(name.to_owned(), child);
        child
    }

    /// Returns the place with this number; `None` for the share's root and for other files.
    pub(crate) fn of(&self, inode: GuestInode) -> Option<Place> {
        let index = usize::try_from(inode.0.checked_sub(FIRST_NUMBER)?).ok()?;
        (index < self.nodes.len()).then_some(Place(index))
    }

    /// Returns the place that has this name in a directory.
    pub(crate) fn child(&self, directory: GuestInode, name: &CStr) -> Option<Place> {
        let parent = if directory == ROOT {
            Place(0)
        } else {
            self.of(directory)?
        };
        self.nodes[parent.0].children.get(name).copied()
    }

    pub(crate) fn kind(&self, place: Place) -> PlaceKind {
        self.nodes[place.0].kind
    }

    /// Returns the directory that contains a place, and its name there.
    pub(crate) fn location(&self, place: Place) -> (GuestInode, &CStr) {
        let node = &self.nodes[place.0];
        (node.parent, &node.name)
    }

    /// Returns the excluded places with their paths in the share.
    pub(crate) fn hidden(&self) -> impl Iterator<Item = (Place, CString)> {
        let numbers = 1..self.nodes.len();
        numbers
            .map(Place)
            .filter(|place| self.kind(*place) == PlaceKind::Hidden)
            .map(|place| (place, self.path(place)))
    }

    fn path(&self, place: Place) -> CString {
        let mut names = Vec::new();
        let mut at = Some(place);
        while let Some(place) = at {
            let (parent, name) = self.location(place);
            names.push(name.to_bytes());
            at = self.of(parent);
        }
        names.reverse();
        CString::new(names.join(&b'/')).unwrap_or_default()
    }

    /// Returns the attributes of an excluded directory, or of an ancestor that the host lacks.
    pub(crate) fn attributes(&self, place: Place) -> Attr {
        let time = self.created.as_secs();
        Attr {
            ino: FIRST_VISIBLE_NUMBER + place.0 as u64,
            atime: time,
            mtime: time,
            ctime: time,
            mode: libc::S_IFDIR | 0o700,
            nlink: 2,
            uid: GuestUid::from(geteuid().as_raw()),
            gid: GuestGid::from(getegid().as_raw()),
            blksize: 4096,
            ..Attr::default()
        }
    }

    /// Returns the entry of an excluded directory, or of an ancestor that the host lacks.
    pub(crate) fn entry(&self, place: Place, timeout: Duration) -> Entry {
        Entry {
            inode: place.inode().0,
            generation: 0,
            attr: self.attributes(place),
            attr_timeout: timeout,
            entry_timeout: timeout,
        }
    }
}

impl Place {
    pub(crate) fn inode(self) -> GuestInode {
        if self.0 == 0 {
            ROOT
        } else {
            GuestInode(FIRST_NUMBER + self.0 as u64)
        }
    }
}

/// Returns the names in a relative path; `None` if it leads upwards, is absolute or empty.
fn names(path: &Path) -> Option<Vec<CString>> {
    let name = |name: &OsStr| CString::new(name.as_bytes()).ok();
    let names: Option<Vec<CString>> = path
        .components()
        .filter(|component| *component != Component::CurDir)
        .map(|component| match component {
            Component::Normal(component) => name(component),
            _ => None,
        })
        .collect();
    names.filter(|names| !names.is_empty())
}

/// The entries of a directory of the share.
#[derive(Debug)]
pub enum Entries<I> {
    /// Those of the inner file system.
    Inner(I),
    /// Those of an empty directory, `.` and `..`, from this offset on.
    Empty(u64),
}

impl<I: DirectoryIterator> DirectoryIterator for Entries<I> {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        match self {
            Entries::Inner(inner) => inner.next(),
            Entries::Empty(offset) => {
                let name = match *offset {
                    0 => c".",
                    1 => c"..",
                    _ => return None,
                };
                *offset += 1;
                Some(DirEntry {
                    ino: FIRST_VISIBLE_NUMBER,
                    offset: *offset,
                    type_: libc::DT_DIR.into(),
                    name,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(hidden: &[&str], private: &[&str]) -> Places {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Places::new(&Exclusions {
            hidden: paths(hidden),
            private: paths(private),
        })
    }

    #[test]
    fn ancestors_of_private_directories_are_required() {
        let places = places(&[".config/container", "a/b"], &[".config/systemd/user"]);
        let config = places.child(ROOT, c".config").unwrap();
        let is_required = |is_required| PlaceKind::Ancestor { is_required };
        assert_eq!(places.kind(config), is_required(true));
        let a = places.child(ROOT, c"a").unwrap();
        assert_eq!(places.kind(a), is_required(false));
        let b = places.child(a.inode(), c"b").unwrap();
        assert_eq!(places.kind(b), PlaceKind::Hidden);
        assert_eq!(places.location(b), (a.inode(), c"b"));
        assert_eq!(places.of(b.inode()), Some(b));
        assert_eq!(places.child(ROOT, c"other"), None);
        let hidden: Vec<CString> = places.hidden().map(|(_, path)| path).collect();
        assert_eq!(hidden.len(), 2);
        assert!(hidden.contains(&c".config/container".to_owned()));
    }

    #[test]
    fn nested_and_outside_paths_are_ignored() {
        let places = places(&["x/y/z", "", "../out", "/root", "x/y/../../.."], &["x/y"]);
        let x = places.child(ROOT, c"x").unwrap();
        let y = places.child(x.inode(), c"y").unwrap();
        assert_eq!(places.kind(y), PlaceKind::Private);
        assert_eq!(places.child(y.inode(), c"z"), None);
        assert_eq!(places.nodes.len(), 3);
    }
}
