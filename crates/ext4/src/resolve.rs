//! Path resolution inside the [tree](crate::tree). No path leaves it: absolute symlinks start at
//! its root, and `..` of the root is the root.

use std::borrow::Cow;

use crate::{
    WriteError,
    error::shown,
    layout::EXT4_NAME_LEN,
    node::{NodeId, NodeKind, ROOT, SharedAttributes},
    time::InodeTime,
    tree::Tree,
};

/// Maximum number of symlinks in the resolution of one path, as on Linux.
const MAX_SYMLINKS: u32 = 40;

/// Target of a path, whether or not the name exists.
#[derive(Debug)]
pub(crate) struct Location {
    /// Directory that contains the name.
    pub directory: NodeId,
    /// Last name of the path; absent if the path leads to `directory` itself, as `/` and `a/..` do.
    pub name: Option<Box<[u8]>>,
}

/// Target of a name in the middle of a path.
enum Step {
    Missing,
    Directory(NodeId),
    Symlink(Vec<u8>),
}

impl Tree {
    /// Resolves all of a path but its last name. Symlinks are followed; missing directories are
    /// created, with mode 0755 and owned by root.
    pub(crate) fn make_parent(&mut self, path: &[u8]) -> Result<Location, WriteError> {
        let location = self.walk_to_parent(path, true)?;
        // Never absent, because missing directories are created.
        location.ok_or_else(|| WriteError::NotADirectory { path: shown(path) })
    }

    /// Resolves all of a path but its last name. Returns `None` when a directory is missing.
    pub(crate) fn parent(&mut self, path: &[u8]) -> Result<Option<Location>, WriteError> {
        self.walk_to_parent(path, false)
    }

    fn walk_to_parent(&mut self, path: &[u8], make: bool) -> Result<Option<Location>, WriteError> {
        let mut rest = Cow::Borrowed(path);
        let mut walked = 0;
        let mut directory = ROOT;
        let mut symlinks = 0;
        while let Some((name, after)) = first_name(&rest[walked..]) {
            walked = rest.len() - after.len();
            if name == b".." {
                directory = self.parent_directory(directory)?;
                continue;
            }
            if first_name(after).is_none() {
                check_name(name, path)?;
                let name = Some(name.into());
                return Ok(Some(Location { directory, name }));
            }
            match self.step(directory, name, make, path)? {
                Step::Missing => return Ok(None),
                Step::Directory(id) => directory = id,
                Step::Symlink(target) => {
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(WriteError::Loop { path: shown(path) });
                    }
                    if target.starts_with(b"/") {
                        directory = ROOT;
                    }
                    rest = Cow::Owned([&target[..], b"/", after].concat());
                    walked = 0;
                }
            }
        }
        Ok(Some(Location {
            directory,
            name: None,
        }))
    }

    /// Looks up a name that is followed by others. With `make`, a missing directory is created, and
    /// an existing one becomes part of the current layer.
    fn step(
        &mut self,
        directory: NodeId,
        name: &[u8],
        make: bool,
        path: &[u8],
    ) -> Result<Step, WriteError> {
        let Some(named) = self.lookup(directory, name)? else {
            if !make {
                return Ok(Step::Missing);
            }
            check_name(name, path)?;
            let shared = SharedAttributes::with_mode(0o755);
            let attributes = self.store_attributes(InodeTime::EPOCH, &shared)?;
            let kind = NodeKind::empty_directory(directory);
            let id = self.insert(directory, name, attributes, kind)?;
            return Ok(Step::Directory(id));
        };
        match self.node(named.node)?.kind {
            NodeKind::Directory { .. } => {
                if make {
                    self.mark_in_layer(named)?;
                }
                Ok(Step::Directory(named.node))
            }
            NodeKind::Symlink(target) => Ok(Step::Symlink(self.bytes(target)?)),
            _ => Err(WriteError::NotADirectory { path: shown(path) }),
        }
    }

    fn parent_directory(&mut self, id: NodeId) -> Result<NodeId, WriteError> {
        Ok(match self.node(id)?.kind {
            NodeKind::Directory { parent, .. } => parent,
            _ => ROOT,
        })
    }

    /// Returns whether `directory` is `ancestor` or is in it at any depth.
    pub(crate) fn is_below(
        &mut self,
        mut directory: NodeId,
        ancestor: NodeId,
    ) -> Result<bool, WriteError> {
        while directory != ancestor && directory != ROOT {
            directory = self.parent_directory(directory)?;
        }
        Ok(directory == ancestor)
    }

    /// Returns a directory's path, for an error message. Directories do not know their names, so
    /// each one on the path is searched.
    pub(crate) fn path(&mut self, mut id: NodeId) -> Result<Vec<u8>, WriteError> {
        let mut names = Vec::new();
        while id != ROOT {
            let parent = self.parent_directory(id)?;
            let mut cursor = self.entries_of(parent)?;
            while let Some(named) = self.next_entry(&mut cursor)? {
                if named.node == id {
                    names.push(self.bytes(named.entry.name)?);
                    break;
                }
            }
            id = parent;
        }
        names.push(Vec::new());
        names.reverse();
        Ok(names.join(&b'/'))
    }
}

/// Returns the first name of a path and the rest after it. `.` and empty names are skipped.
fn first_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = path;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'/');
        let (name, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        if !name.is_empty() && name != b"." {
            return Some((name, after));
        }
        rest = after;
    }
    None
}

fn check_name(name: &[u8], path: &[u8]) -> Result<(), WriteError> {
    if name.len() > EXT4_NAME_LEN || name.contains(&0) {
        return Err(WriteError::Name { path: shown(path) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attributes;

    fn tree() -> Tree {
        Tree::new(&std::env::temp_dir(), [0; 4]).unwrap()
    }

    fn symlink(tree: &mut Tree, path: &[u8], target: &[u8]) {
        let kind = tree.store_target(target).unwrap();
        let Location { directory, name } = tree.make_parent(path).unwrap();
        tree.insert(directory, &name.unwrap(), Attributes::default(), kind)
            .unwrap();
    }

    #[test]
    fn paths_never_leave_the_tree() {
        let mut tree = tree();
        let passwd = tree.make_parent(b"../../etc/passwd").unwrap();
        let etc = passwd.directory;
        assert_eq!(tree.child(ROOT, b"etc").unwrap(), Some(etc));
        assert_eq!(passwd.name.as_deref(), Some(&b"passwd"[..]));
        symlink(&mut tree, b"lib", b"/usr/lib");
        symlink(&mut tree, b"out", b"../../../etc");
        let lib = tree.make_parent(b"lib/x").unwrap().directory;
        let usr = tree.child(ROOT, b"usr").unwrap().unwrap();
        assert_eq!(tree.child(usr, b"lib").unwrap(), Some(lib));
        assert_eq!(tree.path(lib).unwrap(), b"/usr/lib");
        assert_eq!(tree.make_parent(b"out/x").unwrap().directory, etc);
    }

    #[test]
    fn symlink_loops_and_invalid_names_are_refused() {
        let mut tree = tree();
        symlink(&mut tree, b"a", b"b");
        symlink(&mut tree, b"b", b"a");
        assert!(matches!(
            tree.make_parent(b"a/x"),
            Err(WriteError::Loop { .. })
        ));
        assert!(matches!(
            tree.make_parent(&[b'x'; 256]),
            Err(WriteError::Name { .. })
        ));
        assert!(matches!(
            tree.make_parent(b"x\0y"),
            Err(WriteError::Name { .. })
        ));
        assert_eq!(tree.make_parent(b"./..//").unwrap().name, None);
    }
}
