//! The names of the file system, and what each leads to.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::{
    Error, Special,
    bytes::{get_u16, get_u32, put_u16, put_u32},
    error::shown,
    extents::Span,
    hash::name_hash,
    inode::InodeTime,
    pages::{Heap, Kept, Record, Table},
    xattr::Xattrs,
};

/// How many symlinks one path may lead through, as on Linux.
const MOST_SYMLINKS: u32 = 40;

/// How many names a file may have (`EXT4_LINK_MAX`).
const MOST_LINKS: u16 = 65000;

/// Pages in memory: 8 MiB of nodes, as much of entries, and of names and attributes.
const IN_MEMORY: usize = 2048;

/// Buckets of entries at first, by how much they grow, and how many there are at most: 16 MiB.
const BUCKETS: usize = 1 << 16;
const BUCKETS_GROWTH: usize = 8;
const MOST_BUCKETS: usize = 1 << 22;

/// Bytes of attributes that are known at once, to be found when they come again.
const MOST_KNOWN: usize = 1 << 20;

/// A node's place in the tree.
pub type NodeId = u32;

/// The root directory's place.
pub const ROOT: NodeId = 0;

/// Where a path leads: a directory, and a name in it; no name for the root itself.
pub type Place = (NodeId, Option<Box<[u8]>>);

/// An entry's number.
type EntryId = u32;

/// The number of no entry.
const NO_ENTRY: EntryId = 0;

/// A name in a directory. It stays when what it names is removed.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The directory.
    directory: NodeId,
    /// The name.
    pub name: Kept,
    /// The name's hash, by which large directories are ordered.
    pub hash: u32,
    /// What it names, if it still does. The root has no name.
    node: Option<NodeId>,
    /// The layer that brought it, or last said something of it.
    layer: u32,
    next_in_bucket: EntryId,
    next_in_directory: EntryId,
}

impl Record for Entry {
    const SIZE: usize = 32;

    fn write(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.directory);
        put_u32(bytes, 4, self.hash);
        self.name.write(&mut bytes[8..16]);
        put_u32(bytes, 16, self.node.unwrap_or(ROOT));
        put_u32(bytes, 20, self.layer);
        put_u32(bytes, 24, self.next_in_bucket);
        put_u32(bytes, 28, self.next_in_directory);
    }

    fn read(bytes: &[u8]) -> Entry {
        Entry {
            directory: get_u32(bytes, 0),
            hash: get_u32(bytes, 4),
            name: Kept::read(&bytes[8..16]),
            node: Some(get_u32(bytes, 16)).filter(|node| *node != ROOT),
            layer: get_u32(bytes, 20),
            next_in_bucket: get_u32(bytes, 24),
            next_in_directory: get_u32(bytes, 28),
        }
    }
}

/// What a name leads to.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// Its attributes.
    pub attributes: Attributes,
    /// What it is.
    pub kind: Kind,
    /// How many names it has; a directory has one.
    pub links: u16,
    /// Its inode, given at the end; 0 before.
    pub inode: u32,
}

/// What is known of an entry besides its name and contents, as it is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// When the contents changed.
    pub mtime: InodeTime,
    /// [`Shared`], written.
    shared: Kept,
}

/// What of an entry's attributes many have alike. It is kept once for most of those.
#[derive(Debug, Default)]
pub struct Shared {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl Shared {
    /// Root's, with these permission bits.
    pub fn of_mode(mode: u16) -> Shared {
        Shared {
            mode,
            ..Shared::default()
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = vec![0; 10];
        put_u16(&mut bytes, 0, self.mode);
        put_u32(&mut bytes, 2, self.uid);
        put_u32(&mut bytes, 6, self.gid);
        self.xattrs.write(&mut bytes);
        bytes
    }

    fn read(bytes: &[u8]) -> Shared {
        Shared {
            mode: get_u16(bytes, 0),
            uid: get_u32(bytes, 2),
            gid: get_u32(bytes, 6),
            xattrs: Xattrs::read(&bytes[10..]),
        }
    }
}

/// What a node is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Nothing any more.
    Removed,
    /// A directory.
    Directory {
        /// The directory it is in.
        parent: NodeId,
        /// Its entry that came last.
        last: EntryId,
        /// How many directories are in it.
        directories: u32,
    },
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// Where they are.
        stored: Span,
    },
    /// A symbolic link.
    Symlink(Kept),
    /// A device, pipe or socket.
    Special(Special),
}

impl Node {
    const REMOVED: Node = Node {
        attributes: Attributes {
            mtime: InodeTime::EPOCH,
            shared: Kept::NOTHING,
        },
        kind: Kind::Removed,
        links: 0,
        inode: 0,
    };
}

impl Record for Node {
    const SIZE: usize = 40;

    fn write(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        self.attributes.mtime.write(&mut bytes[0..8]);
        self.attributes.shared.write(&mut bytes[8..16]);
        put_u32(bytes, 16, self.inode);
        put_u16(bytes, 20, self.links);
        let (kind, value) = bytes[22..40].split_at_mut(2);
        kind[0] = match self.kind {
            Kind::Removed => 0,
            Kind::Directory {
                parent,
                last,
                directories,
            } => {
                put_u32(value, 0, parent);
                put_u32(value, 4, last);
                put_u32(value, 8, directories);
                1
            }
            Kind::File { size, stored } => {
                value[..8].copy_from_slice(&size.to_le_bytes());
                stored.write(&mut value[8..16]);
                2
            }
            Kind::Symlink(target) => {
                target.write(&mut value[..8]);
                3
            }
            Kind::Special(special) => {
                if let Special::CharDevice { major, minor }
                | Special::BlockDevice { major, minor } = special
                {
                    put_u32(value, 0, major);
                    put_u32(value, 4, minor);
                }
                match special {
                    Special::CharDevice { .. } => 4,
                    Special::BlockDevice { .. } => 5,
                    Special::Fifo => 6,
                    Special::Socket => 7,
                }
            }
        };
    }

    fn read(bytes: &[u8]) -> Node {
        let value = &bytes[24..40];
        let (first, second) = (get_u32(value, 0), get_u32(value, 4));
        let (major, minor) = (first, second);
        let kind = match bytes[22] {
            1 => Kind::Directory {
                parent: first,
                last: second,
                directories: get_u32(value, 8),
            },
            2 => Kind::File {
                size: u64::from(first) | (u64::from(second) << 32),
                stored: Span::read(&value[8..16]),
            },
            3 => Kind::Symlink(Kept::read(&value[..8])),
            4 => Kind::Special(Special::CharDevice { major, minor }),
            5 => Kind::Special(Special::BlockDevice { major, minor }),
            6 => Kind::Special(Special::Fifo),
            7 => Kind::Special(Special::Socket),
            _ => Kind::Removed,
        };
        Node {
            attributes: Attributes {
                mtime: InodeTime::read(&bytes[0..8]),
                shared: Kept::read(&bytes[8..16]),
            },
            kind,
            links: get_u16(bytes, 20),
            inode: get_u32(bytes, 16),
        }
    }
}

/// All nodes, and the names that lead to them.
#[derive(Debug)]
pub struct Tree {
    nodes: Table<Node>,
    entries: Table<Entry>,
    /// The entry of each bucket that came last. An entry's bucket is by directory and hash.
    buckets: Vec<EntryId>,
    /// Names, targets of symlinks, and attributes.
    heap: Heap,
    /// Where attributes are kept that came before.
    known: HashMap<Vec<u8>, Kept>,
    known_bytes: usize,
    hash_seed: [u32; 4],
    layer: u32,
}

/// Called with the blocks of a file that nothing leads to any more.
pub type Freed<'a> = &'a mut dyn FnMut(Span) -> Result<(), Error>;

impl Tree {
    /// A root directory with nothing in it. What has no room in memory will be in this directory
    /// of the host's. `hash_seed` is the file system's.
    pub fn new(directory: &Path, hash_seed: [u32; 4]) -> Result<Tree, Error> {
        let directory = || PathBuf::from(directory);
        let mut tree = Tree {
            nodes: Table::new(directory(), IN_MEMORY),
            entries: Table::new(directory(), IN_MEMORY),
            buckets: vec![NO_ENTRY; BUCKETS],
            heap: Heap::new(directory(), IN_MEMORY),
            known: HashMap::new(),
            known_bytes: 0,
            hash_seed,
            layer: 0,
        };
        let attributes = tree.attributes(InodeTime::EPOCH, &Shared::of_mode(0o755))?;
        tree.nodes.push(&Node {
            attributes,
            kind: empty_directory(ROOT),
            links: 1,
            inode: 0,
        })?;
        // Its number is that of no entry.
        tree.entries.push(&Entry {
            directory: ROOT,
            name: Kept::NOTHING,
            hash: 0,
            node: None,
            layer: 0,
            next_in_bucket: NO_ENTRY,
            next_in_directory: NO_ENTRY,
        })?;
        Ok(tree)
    }

    /// What comes now lies over all that came before.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// How many nodes there have been; ids are below this.
    pub fn bound(&self) -> NodeId {
        self.nodes.length()
    }

    /// The node with this id, which the tree gave out.
    pub fn node(&mut self, id: NodeId) -> Result<Node, Error> {
        self.nodes.get(id)
    }

    /// Gives a node its inode.
    pub fn give_inode(&mut self, id: NodeId, inode: u32) -> Result<(), Error> {
        let mut node = self.nodes.get(id)?;
        node.inode = inode;
        self.nodes.set(id, &node)
    }

    /// Keeps attributes.
    pub fn attributes(&mut self, mtime: InodeTime, shared: &Shared) -> Result<Attributes, Error> {
        let bytes = shared.write();
        let shared = match self.known.get(&bytes) {
            Some(kept) => *kept,
            None => {
                let kept = self.heap.keep(&bytes)?;
                self.known_bytes += bytes.len();
                if self.known_bytes > MOST_KNOWN {
                    self.known.clear();
                    self.known_bytes = bytes.len();
                }
                self.known.insert(bytes, kept);
                kept
            }
        };
        Ok(Attributes { mtime, shared })
    }

    /// What was kept of attributes.
    pub fn shared(&mut self, attributes: Attributes) -> Result<Shared, Error> {
        Ok(Shared::read(&self.heap.get(attributes.shared)?))
    }

    /// Keeps the target of a symlink.
    pub fn keep_target(&mut self, target: &[u8]) -> Result<Kind, Error> {
        Ok(Kind::Symlink(self.heap.keep(target)?))
    }

    /// A name, or a symlink's target, as it was kept.
    pub fn bytes(&mut self, kept: Kept) -> Result<Vec<u8>, Error> {
        self.heap.get(kept)
    }

    /// A directory's path, for people.
    pub fn path(&mut self, mut id: NodeId) -> Result<Vec<u8>, Error> {
        let mut names = Vec::new();
        while id != ROOT {
            let above = self.directory_above(id)?;
            let mut at = self.entries_of(above)?;
            while let Some(named) = self.next(&mut at)? {
                if named.node == id {
                    names.push(self.heap.get(named.entry.name)?);
                    break;
                }
            }
            id = above;
        }
        names.push(Vec::new());
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// Where [`next`](Self::next) begins with the entries of a directory.
    pub fn entries_of(&mut self, id: NodeId) -> Result<Entries, Error> {
        Ok(Entries(match self.nodes.get(id)?.kind {
            Kind::Directory { last, .. } => last,
            _ => NO_ENTRY,
        }))
    }

    /// The next entry of a directory that names something; the last that came is the first.
    pub fn next(&mut self, at: &mut Entries) -> Result<Option<Named>, Error> {
        while at.0 != NO_ENTRY {
            let id = at.0;
            let entry = self.entries.get(id)?;
            at.0 = entry.next_in_directory;
            if let Some(node) = entry.node {
                return Ok(Some(Named { id, entry, node }));
            }
        }
        Ok(None)
    }

    /// The entry of that name in a directory, also if it names nothing any more.
    fn find(&mut self, directory: NodeId, name: &[u8]) -> Result<Found, Error> {
        let hash = name_hash(name, &self.hash_seed);
        let bucket = bucket(self.buckets.len(), directory, hash);
        let mut id = self.buckets[bucket];
        while id != NO_ENTRY {
            let entry = self.entries.get(id)?;
            if entry.hash == hash
                && entry.directory == directory
                && self.heap.is(entry.name, name)?
            {
                return Ok(Found::Entry(id, entry));
            }
            id = entry.next_in_bucket;
        }
        Ok(Found::None { hash, bucket })
    }

    fn named(&mut self, directory: NodeId, name: &[u8]) -> Result<Option<Named>, Error> {
        Ok(match self.find(directory, name)? {
            Found::Entry(id, entry) => entry.node.map(|node| Named { id, entry, node }),
            Found::None { .. } => None,
        })
    }

    /// What that name in a directory leads to.
    pub fn child(&mut self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, Error> {
        Ok(self.named(directory, name)?.map(|named| named.node))
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
        // What is still to be walked.
        let mut rest = Cow::Borrowed(path);
        let mut walked = 0;
        let mut symlinks = 0;
        while let Some((name, behind)) = first_name(&rest[walked..]) {
            let rest_at = rest.len() - behind.len();
            if name == b".." {
                at = self.directory_above(at)?;
                walked = rest_at;
                continue;
            }
            if first_name(behind).is_none() {
                check_name(name, path)?;
                return Ok(Some((at, Some(name.into()))));
            }
            let Some(named) = self.named(at, name)? else {
                if !make {
                    return Ok(None);
                }
                check_name(name, path)?;
                let attributes = self.attributes(InodeTime::EPOCH, &Shared::of_mode(0o755))?;
                at = self.insert(at, name, attributes, empty_directory(at))?;
                walked = rest_at;
                continue;
            };
            match self.nodes.get(named.node)?.kind {
                Kind::Directory { .. } => {
                    if make {
                        self.speak_of(named)?;
                    }
                    at = named.node;
                    walked = rest_at;
                }
                Kind::Symlink(target) => {
                    symlinks += 1;
                    if symlinks > MOST_SYMLINKS {
                        return Err(Error::Loop { path: shown(path) });
                    }
                    let target = self.heap.get(target)?;
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    rest = Cow::Owned([&target[..], b"/", behind].concat());
                    walked = 0;
                }
                _ => return Err(Error::NotADirectory { path: shown(path) }),
            }
        }
        Ok(Some((at, None)))
    }

    fn directory_above(&mut self, id: NodeId) -> Result<NodeId, Error> {
        Ok(match self.nodes.get(id)?.kind {
            Kind::Directory { parent, .. } => parent,
            _ => ROOT,
        })
    }

    /// Whether a directory is this one, or in it at any depth.
    pub fn is_below(&mut self, mut directory: NodeId, above: NodeId) -> Result<bool, Error> {
        while directory != above && directory != ROOT {
            directory = self.directory_above(directory)?;
        }
        Ok(directory == above)
    }

    /// Adds a node under a name that names nothing.
    pub fn insert(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        kind: Kind,
    ) -> Result<NodeId, Error> {
        let id = self.nodes.push(&Node {
            attributes,
            kind,
            links: 1,
            inode: 0,
        })?;
        self.name(parent, name, id)?;
        if let Kind::Directory { .. } = kind {
            self.count_directory(parent, 1)?;
        }
        Ok(id)
    }

    fn name(&mut self, directory: NodeId, name: &[u8], node: NodeId) -> Result<(), Error> {
        let (hash, bucket) = match self.find(directory, name)? {
            Found::Entry(id, mut entry) => {
                entry.node = Some(node);
                entry.layer = self.layer;
                return self.entries.set(id, &entry);
            }
            Found::None { hash, bucket } => (hash, bucket),
        };
        let mut above = self.nodes.get(directory)?;
        let Kind::Directory { last, .. } = &mut above.kind else {
            return Ok(());
        };
        let id = self.entries.push(&Entry {
            directory,
            name: self.heap.keep(name)?,
            hash,
            node: Some(node),
            layer: self.layer,
            next_in_bucket: self.buckets[bucket],
            next_in_directory: *last,
        })?;
        *last = id;
        self.nodes.set(directory, &above)?;
        self.buckets[bucket] = id;
        if self.entries.length() as usize > self.buckets.len() / 2 {
            self.grow()?;
        }
        Ok(())
    }

    /// Divides the entries among more buckets.
    fn grow(&mut self) -> Result<(), Error> {
        let count = self.buckets.len() * BUCKETS_GROWTH;
        if count > MOST_BUCKETS {
            return Ok(());
        }
        self.buckets = vec![NO_ENTRY; count];
        for id in NO_ENTRY + 1..self.entries.length() {
            let mut entry = self.entries.get(id)?;
            let first = &mut self.buckets[bucket(count, entry.directory, entry.hash)];
            entry.next_in_bucket = std::mem::replace(first, id);
            self.entries.set(id, &entry)?;
        }
        Ok(())
    }

    fn count_directory(&mut self, parent: NodeId, change: i32) -> Result<(), Error> {
        let mut node = self.nodes.get(parent)?;
        if let Kind::Directory { directories, .. } = &mut node.kind {
            *directories = directories.saturating_add_signed(change);
        }
        self.nodes.set(parent, &node)
    }

    /// The entry belongs to the current layer too.
    fn speak_of(&mut self, Named { id, mut entry, .. }: Named) -> Result<(), Error> {
        if entry.layer == self.layer {
            return Ok(());
        }
        entry.layer = self.layer;
        self.entries.set(id, &entry)
    }

    /// Gives the directory at this place new attributes.
    pub fn touch(
        &mut self,
        (parent, name): &Place,
        id: NodeId,
        attributes: Attributes,
    ) -> Result<(), Error> {
        if let Some(name) = name
            && let Some(named) = self.named(*parent, name)?
        {
            self.speak_of(named)?;
        }
        let mut node = self.nodes.get(id)?;
        node.attributes = attributes;
        self.nodes.set(id, &node)
    }

    /// Checks that one more name can be given to a file.
    pub fn ensure_may_be_linked(&mut self, target: NodeId, path: &[u8]) -> Result<(), Error> {
        match self.nodes.get(target)?.links {
            MOST_LINKS.. => Err(Error::Links { path: shown(path) }),
            _ => Ok(()),
        }
    }

    /// Gives a file that is there one more name, which names nothing.
    pub fn link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> Result<(), Error> {
        let mut node = self.nodes.get(target)?;
        node.links += 1;
        self.nodes.set(target, &node)?;
        self.name(parent, name, target)
    }

    /// Takes a name out of its directory, and with it all that it alone leads to.
    pub fn remove(&mut self, parent: NodeId, name: &[u8], freed: Freed<'_>) -> Result<(), Error> {
        match self.named(parent, name)? {
            Some(named) => self.remove_entry(named, freed),
            None => Ok(()),
        }
    }

    fn remove_entry(&mut self, named: Named, freed: Freed<'_>) -> Result<(), Error> {
        let Named {
            id,
            mut entry,
            node,
        } = named;
        entry.node = None;
        self.entries.set(id, &entry)?;
        let mut emptied = Vec::new();
        self.unlink(node, &mut emptied, freed)?;
        if !emptied.is_empty() {
            self.count_directory(entry.directory, -1)?;
        }
        while let Some(mut entries) = emptied.pop() {
            while let Some(named) = self.next(&mut entries)? {
                self.unlink(named.node, &mut emptied, freed)?;
            }
        }
        Ok(())
    }

    /// Takes one of a node's names. If it was the last, the node is gone, and what is in it is to
    /// be unlinked too.
    fn unlink(
        &mut self,
        id: NodeId,
        emptied: &mut Vec<Entries>,
        freed: Freed<'_>,
    ) -> Result<(), Error> {
        let mut node = self.nodes.get(id)?;
        node.links = node.links.saturating_sub(1);
        if node.links > 0 {
            return self.nodes.set(id, &node);
        }
        self.nodes.set(id, &Node::REMOVED)?;
        match node.kind {
            Kind::Directory { last, .. } => emptied.push(Entries(last)),
            Kind::File { stored, .. } => freed(stored)?,
            _ => {}
        }
        Ok(())
    }

    /// Removes what lower layers brought under this name: all of it, or, for a directory that
    /// this layer speaks of too, what is in it.
    pub fn white_out(
        &mut self,
        parent: NodeId,
        name: &[u8],
        freed: Freed<'_>,
    ) -> Result<(), Error> {
        match self.named(parent, name)? {
            Some(named) if named.entry.layer < self.layer => self.remove_entry(named, freed),
            Some(named) => self.make_opaque(named.node, freed),
            None => Ok(()),
        }
    }

    /// Removes from a directory all that lower layers brought into it.
    pub fn make_opaque(&mut self, directory: NodeId, freed: Freed<'_>) -> Result<(), Error> {
        let mut opaque = vec![self.entries_of(directory)?];
        while let Some(mut entries) = opaque.pop() {
            while let Some(named) = self.next(&mut entries)? {
                if named.entry.layer < self.layer {
                    self.remove_entry(named, freed)?;
                } else {
                    opaque.push(self.entries_of(named.node)?);
                }
            }
        }
        Ok(())
    }
}

/// A place among the entries of a directory.
#[derive(Debug, Clone, Copy)]
pub struct Entries(EntryId);

/// An entry that names something.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    id: EntryId,
    /// The entry.
    pub entry: Entry,
    /// What it names.
    pub node: NodeId,
}

enum Found {
    Entry(EntryId, Entry),
    None { hash: u32, bucket: usize },
}

/// Of so many buckets, a power of two, the one for names of this hash in this directory.
fn bucket(count: usize, directory: NodeId, hash: u32) -> usize {
    let key = (u64::from(directory) << 32) | u64::from(hash);
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize & (count - 1)
}

/// An empty directory in `parent`.
pub fn empty_directory(parent: NodeId) -> Kind {
    Kind::Directory {
        parent,
        last: NO_ENTRY,
        directories: 0,
    }
}

/// The first name of a path, and what is behind it. `.` and empty ones are left out.
fn first_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = path;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'/');
        let (name, behind) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        if !name.is_empty() && name != b"." {
            return Some((name, behind));
        }
        rest = behind;
    }
    None
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

    fn tree() -> Tree {
        Tree::new(&std::env::temp_dir(), [0; 4]).unwrap()
    }

    fn add(tree: &mut Tree, path: &[u8], kind: Kind) -> NodeId {
        let (parent, name) = tree.make_parent(path).unwrap();
        tree.insert(parent, &name.unwrap(), Attributes::default(), kind)
            .unwrap()
    }

    fn symlink(tree: &mut Tree, path: &[u8], target: &[u8]) {
        let kind = tree.keep_target(target).unwrap();
        add(tree, path, kind);
    }

    #[test]
    fn paths_never_leave_the_tree() {
        let mut tree = tree();
        let (up, name) = tree.make_parent(b"../../etc/passwd").unwrap();
        assert_eq!(tree.child(ROOT, b"etc").unwrap(), Some(up));
        assert_eq!(name.as_deref(), Some(&b"passwd"[..]));
        symlink(&mut tree, b"lib", b"/usr/lib");
        symlink(&mut tree, b"out", b"../../../etc");
        let (through, _) = tree.make_parent(b"lib/x").unwrap();
        let usr = tree.child(ROOT, b"usr").unwrap().unwrap();
        assert_eq!(tree.child(usr, b"lib").unwrap(), Some(through));
        assert_eq!(tree.path(through).unwrap(), b"/usr/lib");
        assert_eq!(tree.make_parent(b"out/x").unwrap().0, up);
    }

    #[test]
    fn loops_and_bad_names_are_refused() {
        let mut tree = tree();
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
        let mut tree = tree();
        for path in [&b"d/old"[..], b"d/both/old"] {
            add(&mut tree, path, Kind::Special(Special::Fifo));
        }
        tree.begin_layer();
        let directory = tree.child(ROOT, b"d").unwrap().unwrap();
        let both = tree.child(directory, b"both").unwrap().unwrap();
        let place = (directory, Some((*b"both").into()));
        tree.touch(&place, both, Attributes::default()).unwrap();
        add(&mut tree, b"d/both/new/x", Kind::Special(Special::Fifo));
        tree.make_opaque(directory, &mut |_| Ok(())).unwrap();
        assert_eq!(tree.child(directory, b"old").unwrap(), None);
        assert_eq!(tree.child(both, b"old").unwrap(), None);
        assert!(tree.child(both, b"new").unwrap().is_some());
        add(&mut tree, b"d/old", Kind::Special(Special::Fifo));
        assert!(tree.child(directory, b"old").unwrap().is_some());
    }

    #[test]
    fn names_are_found_among_many() {
        let mut tree = tree();
        let count = 3 * BUCKETS as u32;
        for number in 0..count {
            let path = format!("{}/{number}", number % 7);
            add(&mut tree, path.as_bytes(), Kind::Special(Special::Fifo));
        }
        for number in (0..count).step_by(11) {
            let path = format!("{}/{number}", number % 7);
            let (parent, name) = tree.parent(path.as_bytes()).unwrap().unwrap();
            let name = name.unwrap();
            assert!(tree.child(parent, &name).unwrap().is_some());
            tree.remove(parent, &name, &mut |_| Ok(())).unwrap();
            assert_eq!(tree.child(parent, &name).unwrap(), None);
        }
        let mut left = 0;
        for directory in 0..7 {
            let directory = tree.child(ROOT, directory.to_string().as_bytes());
            let mut entries = tree.entries_of(directory.unwrap().unwrap()).unwrap();
            while tree.next(&mut entries).unwrap().is_some() {
                left += 1;
            }
        }
        assert_eq!(left, count - count.div_ceil(11));
    }
}
