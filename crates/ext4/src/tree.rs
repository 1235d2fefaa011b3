//! The names of the file system, in memory, and what each leads to.

use std::collections::BTreeMap;

use crate::{Error, Metadata, Special, error::shown, extents::Extents};

/// How many symlinks one path may lead through, as on Linux.
const MOST_SYMLINKS: u32 = 40;

/// How many names a file may have (`EXT4_LINK_MAX`).
const MOST_LINKS: u32 = 65000;

/// A node's place in the tree.
pub type NodeId = usize;

/// The root directory's place.
pub const ROOT: NodeId = 0;

/// Where a path leads: a directory, and a name in it; no name for the root itself.
pub type Place = (NodeId, Option<Box<[u8]>>);

/// What a name leads to.
#[derive(Debug)]
pub struct Node {
    /// Its attributes.
    pub metadata: Metadata,
    /// What it is.
    pub kind: Kind,
    /// How many names it has; a directory has one.
    pub links: u32,
    /// The layer that brought it, or last said something of it.
    pub layer: u32,
}

/// What a node is.
#[derive(Debug)]
pub enum Kind {
    /// A directory.
    Directory {
        /// Its entries by name.
        children: BTreeMap<Box<[u8]>, NodeId>,
        /// The directory it is in.
        parent: NodeId,
    },
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// Where they are.
        extents: Extents,
    },
    /// A symbolic link.
    Symlink(Box<[u8]>),
    /// A device, pipe or socket.
    Special(Special),
}

/// All nodes.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Option<Node>>,
    layer: u32,
}

impl Tree {
    /// A root directory with nothing in it.
    pub fn new() -> Tree {
        let root = Node {
            metadata: Metadata::file(0o755),
            kind: directory(ROOT),
            links: 1,
            layer: 0,
        };
        Tree {
            nodes: vec![Some(root)],
            layer: 0,
        }
    }

    /// What comes now lies over all that came before.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// The node with this id, which the tree gave out and which is still there.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)?.as_ref()
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id)?.as_mut()
    }

    /// How many nodes there are room for; ids are below this.
    pub fn bound(&self) -> usize {
        self.nodes.len()
    }

    /// The entries of a directory, by name; none for anything else.
    pub fn children(&self, id: NodeId) -> Option<&BTreeMap<Box<[u8]>, NodeId>> {
        match &self.node(id)?.kind {
            Kind::Directory { children, .. } => Some(children),
            _ => None,
        }
    }

    fn children_mut(&mut self, id: NodeId) -> Option<&mut BTreeMap<Box<[u8]>, NodeId>> {
        match &mut self.node_mut(id)?.kind {
            Kind::Directory { children, .. } => Some(children),
            _ => None,
        }
    }

    /// The entry of that name in a directory.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.children(directory)?.get(name).copied()
    }

    /// The directory that `path` is in, and its last name; no name for the root itself. Links
    /// on the way are followed inside the tree; missing directories are made.
    pub fn make_parent(&mut self, path: &[u8]) -> Result<Place, Error> {
        let walked = self.walk_to_parent(path, true)?;
        // With `make`, every directory on the way is there.
        walked.ok_or_else(|| Error::NotADirectory { path: shown(path) })
    }

    /// As [`make_parent`](Self::make_parent), and none if a directory is missing on the way.
    pub fn parent(&mut self, path: &[u8]) -> Result<Option<Place>, Error> {
        self.walk_to_parent(path, false)
    }

    fn walk_to_parent(&mut self, path: &[u8], make: bool) -> Result<Option<Place>, Error> {
        let mut at = ROOT;
        // What is still to be walked, the next name last.
        let mut names: Vec<Box<[u8]>> = split(path);
        let mut symlinks = 0;
        while let Some(name) = names.pop() {
            if &*name == b".." {
                at = self.directory_above(at);
                continue;
            }
            if names.is_empty() {
                check_name(&name, path)?;
                return Ok(Some((at, Some(name))));
            }
            match self
                .child(at, &name)
                .and_then(|id| Some((id, self.node(id)?)))
            {
                Some((
                    id,
                    Node {
                        kind: Kind::Directory { .. },
                        ..
                    },
                )) => at = id,
                Some((
                    _,
                    Node {
                        kind: Kind::Symlink(target),
                        ..
                    },
                )) => {
                    symlinks += 1;
                    if symlinks > MOST_SYMLINKS {
                        return Err(Error::Loop { path: shown(path) });
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    names.extend(split(target));
                }
                Some(_) => return Err(Error::NotADirectory { path: shown(path) }),
                None if make => {
                    check_name(&name, path)?;
                    at = self.insert(at, name, Metadata::file(0o755), directory(at));
                }
                None => return Ok(None),
            }
        }
        Ok(Some((at, None)))
    }

    fn directory_above(&self, id: NodeId) -> NodeId {
        match self.node(id).map(|node| &node.kind) {
            Some(Kind::Directory { parent, .. }) => *parent,
            _ => ROOT,
        }
    }

    /// Adds a node under a name that is free.
    pub fn insert(
        &mut self,
        parent: NodeId,
        name: Box<[u8]>,
        metadata: Metadata,
        kind: Kind,
    ) -> NodeId {
        let id = self.nodes.len();
        self.nodes.push(Some(Node {
            metadata,
            kind,
            links: 1,
            layer: self.layer,
        }));
        if let Some(children) = self.children_mut(parent) {
            children.insert(name, id);
        }
        id
    }

    /// Gives a directory new attributes.
    pub fn touch(&mut self, id: NodeId, metadata: Metadata) {
        let layer = self.layer;
        if let Some(node) = self.node_mut(id) {
            node.metadata = metadata;
            node.layer = layer;
        }
    }

    /// Gives a file that is there one more name, which is free.
    pub fn link(
        &mut self,
        parent: NodeId,
        name: Box<[u8]>,
        target: NodeId,
        path: &[u8],
    ) -> Result<(), Error> {
        let layer = self.layer;
        let node = self.node_mut(target);
        let node = node
            .filter(|node| node.links < MOST_LINKS)
            .ok_or_else(|| Error::Links { path: shown(path) })?;
        node.links += 1;
        node.layer = layer;
        if let Some(children) = self.children_mut(parent) {
            children.insert(name, target);
        }
        Ok(())
    }

    /// Takes a name out of its directory, and with it all that it alone leads to. Returns the
    /// blocks of files that nothing leads to any more.
    pub fn remove(&mut self, parent: NodeId, name: &[u8]) -> Vec<Extents> {
        let mut freed = Vec::new();
        let removed = self
            .children_mut(parent)
            .and_then(|children| children.remove(name));
        let mut unlinked: Vec<NodeId> = removed.into_iter().collect();
        while let Some(id) = unlinked.pop() {
            let Some(node) = self.node_mut(id) else {
                continue;
            };
            node.links -= 1;
            if node.links > 0 {
                continue;
            }
            match self.nodes[id].take().map(|node| node.kind) {
                Some(Kind::Directory { children, .. }) => unlinked.extend(children.into_values()),
                Some(Kind::File { extents, .. }) => freed.push(extents),
                _ => {}
            }
        }
        freed
    }

    /// Removes what lower layers brought under this name: all of it, or, for a directory that
    /// this layer speaks of too, what is in it.
    pub fn white_out(&mut self, parent: NodeId, name: &[u8]) -> Vec<Extents> {
        match self.child(parent, name) {
            Some(id) if self.is_lower(id) => self.remove(parent, name),
            Some(id) => self.make_opaque(id),
            None => Vec::new(),
        }
    }

    /// Removes from a directory all that lower layers brought into it.
    pub fn make_opaque(&mut self, directory: NodeId) -> Vec<Extents> {
        let mut freed = Vec::new();
        let names: Vec<Box<[u8]>> = self
            .children(directory)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .cloned()
            .collect();
        for name in names {
            freed.extend(self.white_out(directory, &name));
        }
        freed
    }

    fn is_lower(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|node| node.layer < self.layer)
    }
}

/// An empty directory in `parent`.
pub fn directory(parent: NodeId) -> Kind {
    Kind::Directory {
        children: BTreeMap::new(),
        parent,
    }
}

/// The names of a path, the first one last. `.` and empty ones are left out.
fn split(path: &[u8]) -> Vec<Box<[u8]>> {
    let names = path.split(|byte| *byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    let mut names: Vec<Box<[u8]>> = names.map(Box::from).collect();
    names.reverse();
    names
}

fn check_name(name: &[u8], path: &[u8]) -> Result<(), Error> {
    if name.len() > 255 || name.contains(&0) {
        return Err(Error::Name { path: shown(path) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symlink(tree: &mut Tree, path: &[u8], target: &[u8]) {
        let (parent, name) = tree.make_parent(path).unwrap();
        tree.insert(
            parent,
            name.unwrap(),
            Metadata::default(),
            Kind::Symlink(target.into()),
        );
    }

    #[test]
    fn paths_never_leave_the_tree() {
        let mut tree = Tree::new();
        let (up, name) = tree.make_parent(b"../../etc/passwd").unwrap();
        assert_eq!(tree.child(ROOT, b"etc"), Some(up));
        assert_eq!(name.as_deref(), Some(&b"passwd"[..]));
        symlink(&mut tree, b"lib", b"/usr/lib");
        symlink(&mut tree, b"out", b"../../../etc");
        let (through, _) = tree.make_parent(b"lib/x").unwrap();
        assert_eq!(
            tree.child(tree.child(ROOT, b"usr").unwrap(), b"lib"),
            Some(through)
        );
        assert_eq!(tree.make_parent(b"out/x").unwrap().0, up);
    }

    #[test]
    fn loops_and_bad_names_are_refused() {
        let mut tree = Tree::new();
        symlink(&mut tree, b"a", b"b");
        symlink(&mut tree, b"b", b"a");
        assert!(matches!(tree.make_parent(b"a/x"), Err(Error::Loop { .. })));
        assert!(matches!(
            tree.make_parent(&[b'x'; 256]),
            Err(Error::Name { .. })
        ));
        assert!(matches!(tree.make_parent(b"x\0y"), Err(Error::Name { .. })));
        assert_eq!(tree.make_parent(b"./..//").unwrap().1, None);
    }

    #[test]
    fn a_whiteout_takes_lower_layers_only() {
        let mut tree = Tree::new();
        for path in [&b"d/old"[..], b"d/both/old"] {
            let (parent, name) = tree.make_parent(path).unwrap();
            tree.insert(
                parent,
                name.unwrap(),
                Metadata::default(),
                Kind::Special(Special::Fifo),
            );
        }
        tree.begin_layer();
        let directory_d = tree.child(ROOT, b"d").unwrap();
        let both = tree.child(directory_d, b"both").unwrap();
        tree.touch(both, Metadata::default());
        tree.insert(both, (*b"new").into(), Metadata::default(), directory(both));
        tree.make_opaque(directory_d);
        assert_eq!(tree.child(directory_d, b"old"), None);
        assert_eq!(tree.child(both, b"old"), None);
        assert!(tree.child(both, b"new").is_some());
    }
}
