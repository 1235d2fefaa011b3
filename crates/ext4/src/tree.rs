//! The names of the file system, in memory, and what each leads to.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use crate::{
    Error, Metadata, Special, error::shown, extents::Extents, inode::InodeTime, xattr::Xattrs,
};

/// How many symlinks one path may lead through, as on Linux.
const MOST_SYMLINKS: u32 = 40;

/// How many names a file may have (`EXT4_LINK_MAX`).
const MOST_LINKS: u32 = 65000;

/// What names, targets, attributes and lists of blocks may take in memory, all together. No
/// honest image comes near it; without it one that is small but made for it could take all.
const MOST_MEMORY: u64 = 2 << 30;

/// What an entry of a directory takes beside its node and its name: its part of a `BTreeMap`.
const ENTRY_MEMORY: u64 = 64;

/// A node's place in the tree.
pub type NodeId = u32;

/// The root directory's place.
pub const ROOT: NodeId = 0;

/// Where a path leads: a directory, and a name in it; no name for the root itself.
pub type Place = (NodeId, Option<Box<[u8]>>);

/// The entries of a directory by name.
pub type Children = BTreeMap<Box<[u8]>, Child>;

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub struct Child {
    /// What it names.
    pub node: NodeId,
    /// The layer that brought it, or last said something of it.
    layer: u32,
}

/// What a name leads to.
#[derive(Debug)]
pub struct Node {
    /// Its attributes.
    pub attributes: Attributes,
    /// What it is.
    pub kind: Kind,
    /// How many names it has; a directory has one.
    pub links: u32,
}

/// [`Metadata`] as it is kept: there may be millions.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// When the contents changed.
    pub mtime: InodeTime,
    /// What many entries have alike.
    pub shared: Arc<Shared>,
}

/// What of an entry's attributes is kept once for all entries that have it alike.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Shared {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes, if there are any.
    pub xattrs: Option<Xattrs>,
}

impl Attributes {
    /// Root's, with these permission bits.
    pub fn of_mode(mode: u16) -> Attributes {
        Attributes {
            mtime: InodeTime::default(),
            shared: Arc::new(Shared {
                mode,
                ..Shared::default()
            }),
        }
    }
}

/// What a node is.
#[derive(Debug)]
pub enum Kind {
    /// A directory.
    Directory {
        /// Its entries by name.
        children: Children,
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
    shared: HashSet<Arc<Shared>>,
    /// Bytes that were taken, also by what has been removed since.
    memory: u64,
}

impl Tree {
    /// A root directory with nothing in it.
    pub fn new() -> Tree {
        let root = Node {
            attributes: Attributes::of_mode(0o755),
            kind: directory(ROOT),
            links: 1,
        };
        Tree {
            nodes: vec![Some(root)],
            layer: 0,
            shared: HashSet::new(),
            memory: 0,
        }
    }

    /// What comes now lies over all that came before.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// The node with this id, which the tree gave out and which is still there.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id as usize)?.as_ref()
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id as usize)?.as_mut()
    }

    /// How many nodes there are room for; ids are below this.
    pub fn bound(&self) -> usize {
        self.nodes.len()
    }

    /// A directory's path, for people.
    pub fn path(&self, mut id: NodeId) -> Vec<u8> {
        let mut path = Vec::new();
        while id != ROOT {
            let above = self.directory_above(id);
            let entries = self.children(above).into_iter().flatten();
            let mut names = entries.filter(|(_, child)| child.node == id);
            let name = names.next().map(|(name, _)| &name[..]).unwrap_or_default();
            path = [b"/", name, &path[..]].concat();
            id = above;
        }
        path
    }

    /// The entries of a directory, by name; none for anything else.
    pub fn children(&self, id: NodeId) -> Option<&Children> {
        match &self.node(id)?.kind {
            Kind::Directory { children, .. } => Some(children),
            _ => None,
        }
    }

    fn children_mut(&mut self, id: NodeId) -> Option<&mut Children> {
        match &mut self.node_mut(id)?.kind {
            Kind::Directory { children, .. } => Some(children),
            _ => None,
        }
    }

    /// The entry of that name in a directory.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        Some(self.children(directory)?.get(name)?.node)
    }

    /// What is known of an entry, as it is kept; the attributes of the one at `path`.
    pub fn attributes(&mut self, metadata: &Metadata, path: &[u8]) -> Result<Attributes, Error> {
        let shared = Shared {
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            xattrs: Xattrs::of(&metadata.xattrs, path)?,
        };
        Ok(Attributes {
            mtime: metadata.mtime.into(),
            shared: self.intern(shared, path)?,
        })
    }

    fn intern(&mut self, shared: Shared, path: &[u8]) -> Result<Arc<Shared>, Error> {
        if let Some(known) = self.shared.get(&shared) {
            return Ok(Arc::clone(known));
        }
        let xattrs = shared.xattrs.as_ref().map_or(0, Xattrs::memory);
        self.take_memory(size_of::<Shared>() as u64 + xattrs, path)?;
        let shared = Arc::new(shared);
        self.shared.insert(Arc::clone(&shared));
        Ok(shared)
    }

    /// Counts bytes that are kept until the end.
    pub fn take_memory(&mut self, bytes: u64, path: &[u8]) -> Result<(), Error> {
        let taken = self.memory.saturating_add(bytes);
        if taken > MOST_MEMORY {
            return Err(Error::Memory { path: shown(path) });
        }
        self.memory = taken;
        Ok(())
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
                )) => {
                    if make {
                        self.speak_of(at, &name);
                    }
                    at = id;
                }
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
                    self.reserve(&name, 0, path)?;
                    at = self.insert(at, name, Attributes::of_mode(0o755), directory(at));
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

    /// Sees to it that a name, with what is kept for it beside its node, has room in memory.
    pub fn reserve(&mut self, name: &[u8], beside: u64, path: &[u8]) -> Result<(), Error> {
        let entry = ENTRY_MEMORY + size_of::<Node>() as u64;
        self.take_memory(entry + name.len() as u64 + beside, path)
    }

    /// Adds a node under a name that is free and reserved.
    pub fn insert(
        &mut self,
        parent: NodeId,
        name: Box<[u8]>,
        attributes: Attributes,
        kind: Kind,
    ) -> NodeId {
        // So many are never reserved that ids would end.
        let id = self.nodes.len() as NodeId;
        self.nodes.push(Some(Node {
            attributes,
            kind,
            links: 1,
        }));
        self.name(parent, name, id);
        id
    }

    fn name(&mut self, parent: NodeId, name: Box<[u8]>, node: NodeId) {
        let layer = self.layer;
        if let Some(children) = self.children_mut(parent) {
            children.insert(name, Child { node, layer });
        }
    }

    /// The entry belongs to the current layer too.
    fn speak_of(&mut self, parent: NodeId, name: &[u8]) {
        let layer = self.layer;
        let children = self.children_mut(parent);
        if let Some(child) = children.and_then(|children| children.get_mut(name)) {
            child.layer = layer;
        }
    }

    /// Gives the directory at this place new attributes.
    pub fn touch(&mut self, place: &Place, id: NodeId, attributes: Attributes) {
        if let (parent, Some(name)) = place {
            self.speak_of(*parent, name);
        }
        if let Some(node) = self.node_mut(id) {
            node.attributes = attributes;
        }
    }

    /// Checks that one more name can be given to a file.
    pub fn ensure_may_be_linked(&self, target: NodeId, path: &[u8]) -> Result<(), Error> {
        match self.node(target) {
            Some(node) if node.links < MOST_LINKS => Ok(()),
            _ => Err(Error::Links { path: shown(path) }),
        }
    }

    /// Gives a file that is there one more name, which is free and reserved.
    pub fn link(&mut self, parent: NodeId, name: Box<[u8]>, target: NodeId) {
        if let Some(node) = self.node_mut(target) {
            node.links += 1;
            self.name(parent, name, target);
        }
    }

    /// Takes a name out of its directory, and with it all that it alone leads to. Returns the
    /// blocks of files that nothing leads to any more.
    pub fn remove(&mut self, parent: NodeId, name: &[u8]) -> Vec<Extents> {
        let mut freed = Vec::new();
        let removed = self
            .children_mut(parent)
            .and_then(|children| children.remove(name));
        let mut unlinked: Vec<NodeId> = removed.into_iter().map(|child| child.node).collect();
        while let Some(id) = unlinked.pop() {
            let Some(node) = self.node_mut(id) else {
                continue;
            };
            node.links -= 1;
            if node.links > 0 {
                continue;
            }
            let gone = self.nodes.get_mut(id as usize).and_then(Option::take);
            match gone.map(|node| node.kind) {
                Some(Kind::Directory { children, .. }) => {
                    unlinked.extend(children.into_values().map(|child| child.node));
                }
                Some(Kind::File { extents, .. }) => freed.push(extents),
                _ => {}
            }
        }
        freed
    }

    /// Removes what lower layers brought under this name: all of it, or, for a directory that
    /// this layer speaks of too, what is in it.
    pub fn white_out(&mut self, parent: NodeId, name: &[u8]) -> Vec<Extents> {
        let child = self
            .children(parent)
            .and_then(|children| children.get(name));
        match child.copied() {
            Some(child) if child.layer < self.layer => self.remove(parent, name),
            Some(child) => self.make_opaque(child.node),
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
}

impl Kind {
    /// Bytes that are kept outside the node.
    pub fn memory(&self) -> u64 {
        match self {
            Kind::File { extents, .. } => extents.memory(),
            Kind::Symlink(target) => target.len() as u64,
            Kind::Directory { .. } | Kind::Special(_) => 0,
        }
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
            Attributes::default(),
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
                Attributes::default(),
                Kind::Special(Special::Fifo),
            );
        }
        tree.begin_layer();
        let directory_d = tree.child(ROOT, b"d").unwrap();
        let both = tree.child(directory_d, b"both").unwrap();
        tree.touch(
            &(directory_d, Some((*b"both").into())),
            both,
            Attributes::default(),
        );
        let attributes = Attributes::default();
        tree.insert(both, (*b"new").into(), attributes, directory(both));
        tree.make_opaque(directory_d);
        assert_eq!(tree.child(directory_d, b"old"), None);
        assert_eq!(tree.child(both, b"old"), None);
        assert!(tree.child(both, b"new").is_some());
    }
}
