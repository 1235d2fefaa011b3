//! The names of the file system and the nodes they lead to, with the layer rules of images:
//! replacement, removal, whiteouts and opaque directories. [`resolve`](crate::resolve) walks paths.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::{
    WriteError,
    entry_table::{EntryLookup, EntryTable},
    error::shown,
    extents::ExtentRange,
    layout::EXT4_LINK_MAX,
    node::{
        Attributes, EntryId, EntryRecord, NO_ENTRY, Node, NodeId, NodeKind, ROOT, SharedAttributes,
    },
    pages::{Heap, HeapSlice, Table},
    time::InodeTime,
};

/// Pages in memory: 8 MiB each for nodes, for entries, and for names and attributes.
const PAGES_IN_MEMORY: usize = 2048;

/// Bytes of encoded attributes that are remembered, so that equal ones are stored once.
const MAX_CACHED_BYTES: usize = 1 << 20;

/// All nodes, and the names that lead to them.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Table<Node>,
    entries: EntryTable,
    /// Names, symlink targets and encoded attributes.
    heap: Heap,
    /// Positions of encoded attributes.
    cached: HashMap<Vec<u8>, HeapSlice>,
    cached_bytes: usize,
    layer: u32,
}

/// Callback that frees the blocks of a file that was removed.
pub(crate) type FreeExtents<'a> = &'a mut dyn FnMut(ExtentRange) -> Result<(), WriteError>;

impl Tree {
    /// Creates a tree with an empty root directory. Pages that exceed the memory limit are swapped
    /// to a temporary file in `directory`. `hash_seed` is `s_hash_seed`.
    pub(crate) fn new(directory: &Path, hash_seed: [u32; 4]) -> Result<Tree, WriteError> {
        let directory = || PathBuf::from(directory);
        let mut tree = Tree {
            nodes: Table::new(directory(), PAGES_IN_MEMORY),
            entries: EntryTable::new(directory(), PAGES_IN_MEMORY, hash_seed)?,
            heap: Heap::new(directory(), PAGES_IN_MEMORY),
            cached: HashMap::new(),
            cached_bytes: 0,
            layer: 0,
        };
        let shared = SharedAttributes::with_mode(0o755);
        let attributes = tree.store_attributes(InodeTime::EPOCH, &shared)?;
        tree.nodes.push(&Node {
            attributes,
            kind: NodeKind::empty_directory(ROOT),
            links: 1,
            inode: 0,
        })?;
        Ok(tree)
    }

    /// Starts a layer on top of all previous ones.
    pub(crate) fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// Returns the number of node ids in use so far; all ids are below it.
    pub(crate) fn node_bound(&self) -> NodeId {
        self.nodes.length()
    }

    /// Returns the node with this id.
    pub(crate) fn node(&mut self, id: NodeId) -> Result<Node, WriteError> {
        self.nodes.get(id)
    }

    /// Sets a node's inode number and returns the node.
    pub(crate) fn set_inode(&mut self, id: NodeId, inode: u32) -> Result<Node, WriteError> {
        let mut node = self.nodes.get(id)?;
        node.inode = inode;
        self.nodes.set(id, &node)?;
        Ok(node)
    }

    /// Stores attributes, once if equal ones were stored recently.
    pub(crate) fn store_attributes(
        &mut self,
        mtime: InodeTime,
        shared: &SharedAttributes,
    ) -> Result<Attributes, WriteError> {
        let bytes = shared.write();
        let shared = match self.cached.get(&bytes) {
            Some(slice) => *slice,
            None => {
                let slice = self.heap.push(&bytes)?;
                self.cached_bytes += bytes.len();
                if self.cached_bytes > MAX_CACHED_BYTES {
                    self.cached.clear();
                    self.cached_bytes = bytes.len();
                }
                self.cached.insert(bytes, slice);
                slice
            }
        };
        Ok(Attributes { mtime, shared })
    }

    /// Reads the shared part of stored attributes.
    pub(crate) fn shared_attributes(
        &mut self,
        attributes: Attributes,
    ) -> Result<SharedAttributes, WriteError> {
        Ok(SharedAttributes::read(&self.heap.get(attributes.shared)?))
    }

    /// Stores the target of a symlink.
    pub(crate) fn store_target(&mut self, target: &[u8]) -> Result<NodeKind, WriteError> {
        Ok(NodeKind::Symlink(self.heap.push(target)?))
    }

    /// Reads a name or a symlink's target.
    pub(crate) fn bytes(&mut self, slice: HeapSlice) -> Result<Vec<u8>, WriteError> {
        self.heap.get(slice)
    }

    /// Returns a cursor before the first entry of a directory; a node of another type has no
    /// entries.
    pub(crate) fn entries_of(&mut self, id: NodeId) -> Result<EntryCursor, WriteError> {
        Ok(EntryCursor(match self.nodes.get(id)?.kind {
            NodeKind::Directory { last, .. } => last,
            _ => NO_ENTRY,
        }))
    }

    /// Returns the next entry of a directory that has a node. The newest entry comes first.
    pub(crate) fn next_entry(
        &mut self,
        cursor: &mut EntryCursor,
    ) -> Result<Option<NamedEntry>, WriteError> {
        while cursor.0 != NO_ENTRY {
            let id = cursor.0;
            let entry = self.entries.get(id)?;
            cursor.0 = entry.next_in_directory;
            if let Some(node) = entry.node {
                return Ok(Some(NamedEntry { id, entry, node }));
            }
        }
        Ok(None)
    }

    /// Returns the entry of a name in a directory, if it has a node.
    pub(crate) fn lookup(
        &mut self,
        directory: NodeId,
        name: &[u8],
    ) -> Result<Option<NamedEntry>, WriteError> {
        Ok(match self.entries.find(directory, name, &mut self.heap)? {
            EntryLookup::Found(id, entry) => entry.node.map(|node| NamedEntry { id, entry, node }),
            EntryLookup::Missing { .. } => None,
        })
    }

    /// Returns the node of a name in a directory.
    pub(crate) fn child(
        &mut self,
        directory: NodeId,
        name: &[u8],
    ) -> Result<Option<NodeId>, WriteError> {
        Ok(self.lookup(directory, name)?.map(|named| named.node))
    }

    /// Adds a node under a name that has none.
    pub(crate) fn insert(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        kind: NodeKind,
    ) -> Result<NodeId, WriteError> {
        let id = self.nodes.push(&Node {
            attributes,
            kind,
            links: 1,
            inode: 0,
        })?;
        self.set_entry(parent, name, id)?;
        if let NodeKind::Directory { .. } = kind {
            self.count_directory(parent, 1)?;
        }
        Ok(id)
    }

    fn set_entry(
        &mut self,
        directory: NodeId,
        name: &[u8],
        node: NodeId,
    ) -> Result<(), WriteError> {
        let hash = match self.entries.find(directory, name, &mut self.heap)? {
            EntryLookup::Found(id, mut entry) => {
                entry.node = Some(node);
                entry.layer = self.layer;
                return self.entries.set(id, &entry);
            }
            EntryLookup::Missing { hash } => hash,
        };
        let mut parent = self.nodes.get(directory)?;
        let NodeKind::Directory { last, .. } = &mut parent.kind else {
            return Ok(());
        };
        *last = self.entries.push(EntryRecord {
            directory,
            name: self.heap.push(name)?,
            hash,
            node: Some(node),
            layer: self.layer,
            next_in_bucket: NO_ENTRY,
            next_in_directory: *last,
        })?;
        self.nodes.set(directory, &parent)
    }

    fn count_directory(&mut self, parent: NodeId, change: i32) -> Result<(), WriteError> {
        let mut node = self.nodes.get(parent)?;
        if let NodeKind::Directory { directories, .. } = &mut node.kind {
            *directories = directories.saturating_add_signed(change);
        }
        self.nodes.set(parent, &node)
    }

    /// Makes an entry part of the current layer, so that the layer's whiteouts do not remove it.
    pub(crate) fn mark_in_layer(
        &mut self,
        NamedEntry { id, mut entry, .. }: NamedEntry,
    ) -> Result<(), WriteError> {
        if entry.layer == self.layer {
            return Ok(());
        }
        entry.layer = self.layer;
        self.entries.set(id, &entry)
    }

    /// Replaces the attributes of the directory `id`, which is `name` in `parent`; the root has no
    /// name.
    pub(crate) fn set_attributes(
        &mut self,
        parent: NodeId,
        name: Option<&[u8]>,
        id: NodeId,
        attributes: Attributes,
    ) -> Result<(), WriteError> {
        if let Some(name) = name
            && let Some(named) = self.lookup(parent, name)?
        {
            self.mark_in_layer(named)?;
        }
        let mut node = self.nodes.get(id)?;
        node.attributes = attributes;
        self.nodes.set(id, &node)
    }

    /// Fails if a file already has the maximum number of names.
    pub(crate) fn check_link_count(
        &mut self,
        target: NodeId,
        path: &[u8],
    ) -> Result<(), WriteError> {
        match self.nodes.get(target)?.links {
            EXT4_LINK_MAX.. => Err(WriteError::Links { path: shown(path) }),
            _ => Ok(()),
        }
    }

    /// Adds a name, which has no node yet, to an existing file.
    pub(crate) fn link(
        &mut self,
        parent: NodeId,
        name: &[u8],
        target: NodeId,
    ) -> Result<(), WriteError> {
        let mut node = self.nodes.get(target)?;
        node.links += 1;
        self.nodes.set(target, &node)?;
        self.set_entry(parent, name, target)
    }

    /// Removes a name from its directory, and with a directory everything in it. Files that have
    /// names elsewhere remain.
    pub(crate) fn remove(
        &mut self,
        parent: NodeId,
        name: &[u8],
        free: FreeExtents<'_>,
    ) -> Result<(), WriteError> {
        match self.lookup(parent, name)? {
            Some(named) => self.remove_entry(named, free),
            None => Ok(()),
        }
    }

    fn remove_entry(&mut self, named: NamedEntry, free: FreeExtents<'_>) -> Result<(), WriteError> {
        let NamedEntry {
            id,
            mut entry,
            node,
        } = named;
        entry.node = None;
        self.entries.set(id, &entry)?;
        let mut emptied = Vec::new();
        self.unlink(node, &mut emptied, free)?;
        if !emptied.is_empty() {
            self.count_directory(entry.directory, -1)?;
        }
        // A list instead of recursion: image layers may nest directories arbitrarily deep.
        while let Some(mut cursor) = emptied.pop() {
            while let Some(named) = self.next_entry(&mut cursor)? {
                self.unlink(named.node, &mut emptied, free)?;
            }
        }
        Ok(())
    }

    /// Removes one of a node's names. With the last one the node is removed; if it is a directory,
    /// its entries are added to `emptied`.
    fn unlink(
        &mut self,
        id: NodeId,
        emptied: &mut Vec<EntryCursor>,
        free: FreeExtents<'_>,
    ) -> Result<(), WriteError> {
        let mut node = self.nodes.get(id)?;
        node.links = node.links.saturating_sub(1);
        if node.links > 0 {
            return self.nodes.set(id, &node);
        }
        self.nodes.set(id, &Node::REMOVED)?;
        match node.kind {
            NodeKind::Directory { last, .. } => emptied.push(EntryCursor(last)),
            NodeKind::File { stored, .. } => free(stored)?,
            _ => {}
        }
        Ok(())
    }

    /// Removes what lower layers have under this name. If the current layer has a directory there,
    /// only the lower layers' entries in it are removed.
    pub(crate) fn white_out(
        &mut self,
        parent: NodeId,
        name: &[u8],
        free: FreeExtents<'_>,
    ) -> Result<(), WriteError> {
        match self.lookup(parent, name)? {
            Some(named) if named.entry.layer < self.layer => self.remove_entry(named, free),
            Some(named) => self.make_opaque(named.node, free),
            None => Ok(()),
        }
    }

    /// Removes all entries of lower layers from a directory, at any depth.
    pub(crate) fn make_opaque(
        &mut self,
        directory: NodeId,
        free: FreeExtents<'_>,
    ) -> Result<(), WriteError> {
        let mut opaque = vec![self.entries_of(directory)?];
        while let Some(mut cursor) = opaque.pop() {
            while let Some(named) = self.next_entry(&mut cursor)? {
                if named.entry.layer < self.layer {
                    self.remove_entry(named, free)?;
                } else {
                    opaque.push(self.entries_of(named.node)?);
                }
            }
        }
        Ok(())
    }
}

/// Position in the list of a directory's entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryCursor(EntryId);

/// Entry that has a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamedEntry {
    id: EntryId,
    /// Name and position of the entry.
    pub entry: EntryRecord,
    /// Node with this name.
    pub node: NodeId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SpecialFile, entry_table};

    const FIFO: NodeKind = NodeKind::Special(SpecialFile::Fifo);

    fn tree() -> Tree {
        Tree::new(&std::env::temp_dir(), [0; 4]).unwrap()
    }

    fn add(tree: &mut Tree, path: &[u8]) -> NodeId {
        let location = tree.make_parent(path).unwrap();
        let name = location.name.unwrap();
        tree.insert(location.directory, &name, Attributes::default(), FIFO)
            .unwrap()
    }

    #[test]
    fn whiteouts_remove_entries_of_lower_layers_only() {
        let mut tree = tree();
        for path in [&b"d/old"[..], b"d/both/old"] {
            add(&mut tree, path);
        }
        tree.begin_layer();
        let directory = tree.child(ROOT, b"d").unwrap().unwrap();
        let both = tree.child(directory, b"both").unwrap().unwrap();
        tree.set_attributes(directory, Some(b"both"), both, Attributes::default())
            .unwrap();
        add(&mut tree, b"d/both/new/x");
        tree.make_opaque(directory, &mut |_| Ok(())).unwrap();
        assert_eq!(tree.child(directory, b"old").unwrap(), None);
        assert_eq!(tree.child(both, b"old").unwrap(), None);
        assert!(tree.child(both, b"new").unwrap().is_some());
        add(&mut tree, b"d/old");
        assert!(tree.child(directory, b"old").unwrap().is_some());
    }

    #[test]
    fn names_are_found_after_the_buckets_have_grown() {
        let mut tree = tree();
        let count = 3 * entry_table::BUCKETS as u32;
        for number in 0..count {
            let path = format!("{}/{number}", number % 7);
            add(&mut tree, path.as_bytes());
        }
        for number in (0..count).step_by(11) {
            let path = format!("{}/{number}", number % 7);
            let location = tree.parent(path.as_bytes()).unwrap().unwrap();
            let (parent, name) = (location.directory, location.name.unwrap());
            assert!(tree.child(parent, &name).unwrap().is_some());
            tree.remove(parent, &name, &mut |_| Ok(())).unwrap();
            assert_eq!(tree.child(parent, &name).unwrap(), None);
        }
        let mut left = 0;
        for directory in 0..7 {
            let directory = tree.child(ROOT, directory.to_string().as_bytes());
            let mut cursor = tree.entries_of(directory.unwrap().unwrap()).unwrap();
            while tree.next_entry(&mut cursor).unwrap().is_some() {
                left += 1;
            }
        }
        assert_eq!(left, count - count.div_ceil(11));
    }
}
