//! Reader of names, inode numbers and change times, for a file system that was not mounted for
//! writing since a [`Writer`](crate::Writer) wrote it. The image is not trusted: an invalid one
//! leads to a [`ReadError`].

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use crate::{
    Timestamp,
    bytes::{get_u16, get_u32},
    geometry::{BLOCK, DESCRIPTOR, INODE},
    layout::{
        BG_INODE_TABLE_HI, BG_INODE_TABLE_LO, DE_INODE, DE_NAME, DE_NAME_LEN, DE_REC_LEN, EE_LEN,
        EE_START_HI, EE_START_LO, EH_DEPTH, EH_ENTRIES, EH_MAGIC, EI_LEAF_HI, EI_LEAF_LO,
        EXT4_EXT_MAGIC, EXT4_EXTENTS_FL, EXT4_ROOT_INO, EXT4_SUPER_MAGIC, EXTENT_ENTRY_SIZE,
        I_BLOCK, I_BLOCK_SIZE, I_CTIME, I_CTIME_EXTRA, I_FLAGS, I_MODE, S_DESC_SIZE, S_IFDIR,
        S_IFMT, S_INODE_SIZE, S_INODES_PER_GROUP, S_LOG_BLOCK_SIZE, S_MAGIC,
    },
    superblock,
    time::InodeTime,
};

/// Offset of the superblock in bytes.
const SUPERBLOCK_OFFSET: u64 = 1024;
/// Maximum number of blocks of a directory, including its extent tree. Bounds the work and memory
/// for a malformed image.
const MAX_DIRECTORY_BLOCKS: usize = 1 << 20;

/// Reason why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The image file cannot be read, or ends too early.
    #[error("cannot read the file system image: {0}")]
    Io(io::Error),
    /// The image was not written by a [`Writer`](crate::Writer), or is damaged.
    #[error("invalid file system image: {0}")]
    Damaged(&'static str),
}

impl From<io::Error> for ReadError {
    fn from(cause: io::Error) -> ReadError {
        ReadError::Io(cause)
    }
}

/// Entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Name without path; empty for the root directory.
    pub name: Vec<u8>,
    /// Inode number.
    pub inode: u32,
    /// Change time (ctime) of the inode.
    pub changed: Timestamp,
    /// Whether the inode is a directory; symlinks are not followed.
    pub is_directory: bool,
}

/// An opened file system image.
#[derive(Debug)]
pub struct Reader {
    file: File,
    inodes_per_group: u32,
    descriptor_size: usize,
}

/// Inode as it is on disk.
struct Inode([u8; INODE]);

impl Reader {
    /// Opens a file system image.
    ///
    /// # Errors
    /// [`ReadError`] if the file cannot be read, or is not of a kind that a `Writer` writes.
    pub fn open(path: &Path) -> Result<Reader, ReadError> {
        let file = File::open(path)?;
        let mut block = [0; superblock::SIZE];
        file.read_exact_at(&mut block, SUPERBLOCK_OFFSET)?;
        let is_supported = get_u16(&block, S_MAGIC) == EXT4_SUPER_MAGIC
            && get_u32(&block, S_LOG_BLOCK_SIZE) == superblock::LOG_BLOCK_SIZE
            && usize::from(get_u16(&block, S_INODE_SIZE)) == INODE;
        let inodes_per_group = get_u32(&block, S_INODES_PER_GROUP);
        let descriptor_size = usize::from(get_u16(&block, S_DESC_SIZE));
        if !is_supported || inodes_per_group == 0 || !(DESCRIPTOR..=1024).contains(&descriptor_size)
        {
            return Err(ReadError::Damaged("unsupported superblock"));
        }
        Ok(Reader {
            file,
            inodes_per_group,
            descriptor_size,
        })
    }

    /// Returns the root directory, with an empty name.
    ///
    /// # Errors
    /// [`ReadError`] if its inode cannot be read.
    pub fn root(&self) -> Result<DirEntry, ReadError> {
        self.dir_entry(Vec::new(), EXT4_ROOT_INO)
    }

    /// Returns the entries of the directory with this inode number, without `.` and `..`, in no
    /// particular order.
    ///
    /// # Errors
    /// [`ReadError`] if the inode is not a directory, or cannot be read.
    pub fn entries(&self, directory: u32) -> Result<Vec<DirEntry>, ReadError> {
        let inode = self.inode(directory)?;
        if !inode.is_directory() {
            return Err(ReadError::Damaged("the inode is not a directory"));
        }
        let mut entries = Vec::new();
        for number in self.blocks(&inode)? {
            let block = self.block(number)?;
            for (number, name) in names(&block)? {
                if !matches!(name, b"." | b"..") {
                    entries.push(self.dir_entry(name.to_vec(), number)?);
                }
            }
        }
        Ok(entries)
    }

    fn dir_entry(&self, name: Vec<u8>, number: u32) -> Result<DirEntry, ReadError> {
        let inode = self.inode(number)?;
        Ok(DirEntry {
            name,
            inode: number,
            changed: inode.changed(),
            is_directory: inode.is_directory(),
        })
    }

    fn inode(&self, number: u32) -> Result<Inode, ReadError> {
        let index = number.checked_sub(1);
        let index = index.ok_or(ReadError::Damaged("a directory entry has inode number 0"))?;
        let (group, within) = (index / self.inodes_per_group, index % self.inodes_per_group);
        let mut descriptor = [0; DESCRIPTOR];
        let at = u64::from(group) * self.descriptor_size as u64;
        self.file
            .read_exact_at(&mut descriptor, BLOCK as u64 + at)?;
        let low = u64::from(get_u32(&descriptor, BG_INODE_TABLE_LO));
        let high = u64::from(get_u32(&descriptor, BG_INODE_TABLE_HI));
        let at = byte_offset(low | high << 32)? + u64::from(within) * INODE as u64;
        let mut inode = [0; INODE];
        self.file.read_exact_at(&mut inode, at)?;
        Ok(Inode(inode))
    }

    fn block(&self, number: u64) -> Result<[u8; BLOCK], ReadError> {
        let mut block = [0; BLOCK];
        self.file.read_exact_at(&mut block, byte_offset(number)?)?;
        Ok(block)
    }

    /// Returns the blocks of a directory, in order.
    fn blocks(&self, inode: &Inode) -> Result<Vec<u64>, ReadError> {
        if get_u32(&inode.0, I_FLAGS) & EXT4_EXTENTS_FL == 0 {
            return Err(ReadError::Damaged("a directory does not use extents"));
        }
        let mut blocks = Vec::new();
        let mut nodes = vec![inode.0[I_BLOCK..][..I_BLOCK_SIZE].to_vec()];
        let mut seen = 0;
        while let Some(node) = nodes.pop() {
            seen += 1;
            let count = usize::from(get_u16(&node, EH_ENTRIES));
            let is_leaf = get_u16(&node, EH_DEPTH) == 0;
            let is_valid = get_u16(&node, EH_MAGIC) == EXT4_EXT_MAGIC
                && (count + 1) * EXTENT_ENTRY_SIZE <= node.len();
            if !is_valid || seen + blocks.len() > MAX_DIRECTORY_BLOCKS {
                return Err(ReadError::Damaged("an extent tree is malformed"));
            }
            let entries = node[EXTENT_ENTRY_SIZE..]
                .chunks_exact(EXTENT_ENTRY_SIZE)
                .take(count);
            if is_leaf {
                for entry in entries {
                    let high = u64::from(get_u16(entry, EE_START_HI));
                    let start = u64::from(get_u32(entry, EE_START_LO)) | high << 32;
                    blocks.extend(start..start + u64::from(get_u16(entry, EE_LEN)));
                }
            } else {
                // `pop` takes the last node first.
                for entry in entries.rev() {
                    let high = u64::from(get_u16(entry, EI_LEAF_HI));
                    let below = u64::from(get_u32(entry, EI_LEAF_LO)) | high << 32;
                    nodes.push(self.block(below)?.to_vec());
                }
            }
        }
        Ok(blocks)
    }
}

impl Inode {
    fn is_directory(&self) -> bool {
        get_u16(&self.0, I_MODE) & S_IFMT == S_IFDIR
    }

    fn changed(&self) -> Timestamp {
        let time = InodeTime {
            seconds: get_u32(&self.0, I_CTIME),
            extra: get_u32(&self.0, I_CTIME_EXTRA),
        };
        time.into()
    }
}

fn byte_offset(block: u64) -> Result<u64, ReadError> {
    let offset = block.checked_mul(BLOCK as u64);
    offset.ok_or(ReadError::Damaged("a block number is out of range"))
}

/// Returns the inode numbers and names in a block of a directory. Blocks of the hash tree need no
/// special case: to a linear reader, they are entries without an inode.
fn names(block: &[u8; BLOCK]) -> Result<Vec<(u32, &[u8])>, ReadError> {
    let mut names = Vec::new();
    let mut at = 0;
    while at + DE_NAME <= BLOCK {
        let inode = get_u32(block, at + DE_INODE);
        let length = usize::from(get_u16(block, at + DE_REC_LEN));
        let name = block.get(at + DE_NAME..at + DE_NAME + usize::from(block[at + DE_NAME_LEN]));
        match name {
            _ if length < DE_NAME || at + length > BLOCK => {
                return Err(ReadError::Damaged("a directory block is malformed"));
            }
            Some(name) if inode != 0 => names.push((inode, name)),
            _ => {}
        }
        at += length;
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Metadata, Options, Writer};

    fn metadata(seconds: i64) -> Metadata {
        let mut metadata = Metadata::file(0o755);
        metadata.mtime = Timestamp {
            seconds,
            nanoseconds: 7,
        };
        metadata
    }

    #[test]
    fn written_entries_are_listed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.ext4");
        let options = Options {
            size: 1 << 30,
            ..Options::default()
        };
        let mut writer = Writer::create(&path, &options).unwrap();
        writer.directory(b"many", &metadata(-5)).unwrap();
        let far = i64::from(u32::MAX) + 10;
        for number in 0..5000 {
            let path = format!("many/a name that takes some room {number}");
            writer
                .file(path.as_bytes(), &metadata(far), &mut &b""[..])
                .unwrap();
        }
        writer
            .hard_link(b"other", b"many/a name that takes some room 7")
            .unwrap();
        writer.finish().unwrap();

        let reader = Reader::open(&path).unwrap();
        let root = reader.root().unwrap();
        assert!(root.is_directory);
        let entries = |inode| {
            let entries = reader.entries(inode).unwrap().into_iter();
            entries
                .map(|entry| (String::from_utf8(entry.name.clone()).unwrap(), entry))
                .collect::<BTreeMap<_, _>>()
        };
        let top = entries(root.inode);
        assert_eq!(
            top.keys().map(String::as_str).collect::<Vec<_>>(),
            ["lost+found", "many", "other"]
        );
        assert_eq!(top["many"].changed, metadata(-5).mtime);
        let many = entries(top["many"].inode);
        assert_eq!(many.len(), 5000);
        assert!(
            many.values()
                .all(|entry| entry.changed == metadata(far).mtime)
        );
        let seventh = &many["a name that takes some room 7"];
        assert_eq!(seventh.inode, top["other"].inode);
        assert!(!seventh.is_directory);
        assert!(reader.entries(seventh.inode).is_err());
    }

    #[test]
    fn other_files_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Reader::open(file.path()), Err(ReadError::Io(_))));
        file.as_file().set_len(1 << 20).unwrap();
        let error = Reader::open(file.path()).unwrap_err();
        assert!(matches!(error, ReadError::Damaged(_)), "{error}");
    }
}
