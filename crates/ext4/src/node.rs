//! Records of the [tree](crate::tree): nodes, directory entries and attributes, in the form in
//! which they are kept in [pages](crate::pages) until the end.

use crate::{
    SpecialFile,
    bytes::{get_u16, get_u32, get_u64, put_u16, put_u32, put_u64},
    extents::ExtentRange,
    pages::{HeapSlice, Record},
    time::InodeTime,
    xattr::Xattrs,
};

/// Number of a node in the tree.
pub(crate) type NodeId = u32;

/// Number of the root directory.
pub(crate) const ROOT: NodeId = 0;

/// Number of an entry.
pub(crate) type EntryId = u32;

/// Number that stands for "no entry", and ends a list of entries.
pub(crate) const NO_ENTRY: EntryId = 0;

/// Name in a directory. It is kept, without a node, when the node is removed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryRecord {
    /// Directory that contains the name.
    pub directory: NodeId,
    /// Position of the name, 1 to 255 bytes without a slash.
    pub name: HeapSlice,
    /// Hash of the name. Indexed directories are sorted by it.
    pub hash: u32,
    /// Node with this name; absent once it is removed. The root directory has no name.
    pub node: Option<NodeId>,
    /// Last layer that contained the entry.
    pub layer: u32,
    /// Next entry of the same hash bucket.
    pub next_in_bucket: EntryId,
    /// Entry that was added to the directory before this one.
    pub next_in_directory: EntryId,
}

impl Record for EntryRecord {
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

    fn read(bytes: &[u8]) -> EntryRecord {
        EntryRecord {
            directory: get_u32(bytes, 0),
            hash: get_u32(bytes, 4),
            name: HeapSlice::read(&bytes[8..16]),
            node: Some(get_u32(bytes, 16)).filter(|node| *node != ROOT),
            layer: get_u32(bytes, 20),
            next_in_bucket: get_u32(bytes, 24),
            next_in_directory: get_u32(bytes, 28),
        }
    }
}

/// File of any type; becomes one inode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    /// Owner, mode, time and extended attributes.
    pub attributes: Attributes,
    /// Type, and what is specific to the type.
    pub kind: NodeKind,
    /// Number of names; always 1 for a directory.
    pub links: u16,
    /// Inode number; 0 until one is assigned at the end.
    pub inode: u32,
}

/// Attributes of a node. What nodes often have in common is stored once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes {
    /// Time of the last change of the contents.
    pub mtime: InodeTime,
    /// An encoded [`SharedAttributes`].
    pub shared: HeapSlice,
}

/// Attributes that many nodes have in common.
#[derive(Debug, Default)]
pub(crate) struct SharedAttributes {
    /// Permission bits.
    pub mode: u16,
    /// User id of the owner.
    pub uid: u32,
    /// Group id of the owner.
    pub gid: u32,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl SharedAttributes {
    /// Returns attributes with these permission bits, owned by root.
    pub(crate) fn with_mode(mode: u16) -> SharedAttributes {
        SharedAttributes {
            mode,
            ..SharedAttributes::default()
        }
    }

    /// Encodes the attributes. Equal attributes have equal bytes.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut bytes = vec![0; 10];
        put_u16(&mut bytes, 0, self.mode);
        put_u32(&mut bytes, 2, self.uid);
        put_u32(&mut bytes, 6, self.gid);
        self.xattrs.write(&mut bytes);
        bytes
    }

    /// Decodes the bytes that [`write`](Self::write) returned.
    pub(crate) fn read(bytes: &[u8]) -> SharedAttributes {
        SharedAttributes {
            mode: get_u16(bytes, 0),
            uid: get_u32(bytes, 2),
            gid: get_u32(bytes, 6),
            xattrs: Xattrs::read(&bytes[10..]),
        }
    }
}

/// Type of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NodeKind {
    /// The node was removed; its number is not used again.
    Removed,
    /// Directory.
    Directory {
        /// Directory that contains this one; the root contains itself.
        parent: NodeId,
        /// Entry that was added last, the start of the list of entries.
        last: EntryId,
        /// Number of directories in it, which count as links.
        directories: u32,
    },
    /// Regular file.
    File {
        /// Size in bytes.
        size: u64,
        /// Blocks with the contents.
        stored: ExtentRange,
    },
    /// Symbolic link with this target.
    Symlink(HeapSlice),
    /// Device, pipe or socket.
    Special(SpecialFile),
}

impl NodeKind {
    /// Returns an empty directory in `parent`.
    pub(crate) fn empty_directory(parent: NodeId) -> NodeKind {
        NodeKind::Directory {
            parent,
            last: NO_ENTRY,
            directories: 0,
        }
    }
}

impl Node {
    /// Node that replaces one that was removed.
    pub(crate) const REMOVED: Node = Node {
        attributes: Attributes {
            mtime: InodeTime::EPOCH,
            shared: HeapSlice::EMPTY,
        },
        kind: NodeKind::Removed,
        links: 0,
        inode: 0,
    };
}

/// Bytes 0 to 22 are the same for all types; byte 22 is the type; 16 bytes from 24 on depend on it.
impl Record for Node {
    const SIZE: usize = 40;

    fn write(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        self.attributes.mtime.write(&mut bytes[0..8]);
        self.attributes.shared.write(&mut bytes[8..16]);
        put_u32(bytes, 16, self.inode);
        put_u16(bytes, 20, self.links);
        let (tag, value) = bytes[22..40].split_at_mut(2);
        tag[0] = match self.kind {
            NodeKind::Removed => 0,
            NodeKind::Directory {
                parent,
                last,
                directories,
            } => {
                put_u32(value, 0, parent);
                put_u32(value, 4, last);
                put_u32(value, 8, directories);
                1
            }
            NodeKind::File { size, stored } => {
                put_u64(value, 0, size);
                stored.write(&mut value[8..16]);
                2
            }
            NodeKind::Symlink(target) => {
                target.write(&mut value[..8]);
                3
            }
            NodeKind::Special(special) => write_special(special, value),
        };
    }

    fn read(bytes: &[u8]) -> Node {
        let value = &bytes[24..40];
        let (first, second) = (get_u32(value, 0), get_u32(value, 4));
        let (major, minor) = (first, second);
        let kind = match bytes[22] {
            1 => NodeKind::Directory {
                parent: first,
                last: second,
                directories: get_u32(value, 8),
            },
            2 => NodeKind::File {
                size: get_u64(value, 0),
                stored: ExtentRange::read(&value[8..16]),
            },
            3 => NodeKind::Symlink(HeapSlice::read(&value[..8])),
            4 => NodeKind::Special(SpecialFile::CharDevice { major, minor }),
            5 => NodeKind::Special(SpecialFile::BlockDevice { major, minor }),
            6 => NodeKind::Special(SpecialFile::Fifo),
            7 => NodeKind::Special(SpecialFile::Socket),
            _ => NodeKind::Removed,
        };
        Node {
            attributes: Attributes {
                mtime: InodeTime::read(&bytes[0..8]),
                shared: HeapSlice::read(&bytes[8..16]),
            },
            kind,
            links: get_u16(bytes, 20),
            inode: get_u32(bytes, 16),
        }
    }
}

/// Writes a device number, if the file has one, to `value`; returns the tag of the type.
fn write_special(special: SpecialFile, value: &mut [u8]) -> u8 {
    if let SpecialFile::CharDevice { major, minor } | SpecialFile::BlockDevice { major, minor } =
        special
    {
        put_u32(value, 0, major);
        put_u32(value, 4, minor);
    }
    match special {
        SpecialFile::CharDevice { .. } => 4,
        SpecialFile::BlockDevice { .. } => 5,
        SpecialFile::Fifo => 6,
        SpecialFile::Socket => 7,
    }
}
