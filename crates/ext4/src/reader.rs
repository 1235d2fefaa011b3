//! Names and when they last changed, read back from a file system that nobody has mounted for
//! writing since a [`Writer`](crate::Writer) wrote it.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use crate::{
    Timestamp,
    bytes::{get_u16, get_u32},
    geometry::{BLOCK, INODE},
    inode::{FileType, USES_EXTENTS},
    superblock,
};

/// The inode of the root directory.
const ROOT: u32 = 2;
/// Where the superblock is.
const SUPERBLOCK: u64 = 1024;
/// Directories and maps of honest file systems have fewer blocks.
const MOST_BLOCKS: usize = 1 << 20;
const EXTENT_MAGIC: u16 = 0xf30a;
const EXTENT: usize = 12;

/// Why a file system cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The image file failed.
    #[error("reading the file system image: {0}")]
    Io(#[from] io::Error),
    /// It is not of the kind that the writer writes.
    #[error("the file system image is damaged: {0}")]
    Damaged(&'static str),
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: Vec<u8>,
    /// Its inode.
    pub inode: u32,
    /// When the inode last changed, as the kernel tells it.
    pub changed: Timestamp,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// A file system that is read.
#[derive(Debug)]
pub struct Reader {
    file: File,
    inodes_per_group: u32,
    descriptor_size: usize,
}

/// An inode's bytes.
struct Inode([u8; INODE]);

impl Reader {
    /// Opens a file system image.
    ///
    /// # Errors
    /// [`ReadError`] if it is none of a kind that a `Writer` writes.
    pub fn open(path: &Path) -> Result<Reader, ReadError> {
        let file = File::open(path)?;
        let mut block = [0; superblock::SIZE];
        file.read_exact_at(&mut block, SUPERBLOCK)?;
        let is_known = get_u16(&block, 0x38) == 0xef53
            && get_u32(&block, 0x18) == 2
            && usize::from(get_u16(&block, 0x58)) == INODE;
        let inodes_per_group = get_u32(&block, 0x28);
        let descriptor_size = usize::from(get_u16(&block, 0xfe));
        if !is_known || inodes_per_group == 0 || !(64..=1024).contains(&descriptor_size) {
            return Err(ReadError::Damaged("its superblock is of another kind"));
        }
        Ok(Reader {
            file,
            inodes_per_group,
            descriptor_size,
        })
    }

    /// The root directory, which has no name.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn root(&self) -> Result<Listed, ReadError> {
        self.listed(Vec::new(), ROOT)
    }

    /// The entries of the directory with this inode, `.` and `..` left out, in no order.
    ///
    /// # Errors
    /// [`ReadError`], also if it is no directory.
    pub fn entries(&self, directory: u32) -> Result<Vec<Listed>, ReadError> {
        let inode = self.inode(directory)?;
        if !inode.is_directory() {
            return Err(ReadError::Damaged("an inode of it is no directory"));
        }
        let mut entries = Vec::new();
        for place in self.blocks(&inode)? {
            let block = self.block(place)?;
            for (number, name) in names(&block)? {
                if !matches!(name, b"." | b"..") {
                    entries.push(self.listed(name.to_vec(), number)?);
                }
            }
        }
        Ok(entries)
    }

    fn listed(&self, name: Vec<u8>, number: u32) -> Result<Listed, ReadError> {
        let inode = self.inode(number)?;
        Ok(Listed {
            name,
            inode: number,
            changed: inode.changed(),
            is_directory: inode.is_directory(),
        })
    }

    fn inode(&self, number: u32) -> Result<Inode, ReadError> {
        let index = number.checked_sub(1);
        let index = index.ok_or(ReadError::Damaged("an entry of it has no inode"))?;
        let (group, within) = (index / self.inodes_per_group, index % self.inodes_per_group);
        let mut descriptor = [0; 64];
        let at = u64::from(group) * self.descriptor_size as u64;
        self.file
            .read_exact_at(&mut descriptor, BLOCK as u64 + at)?;
        let low = u64::from(get_u32(&descriptor, 0x08));
        let high = u64::from(get_u32(&descriptor, 0x28));
        let at = place(low | high << 32)? + u64::from(within) * INODE as u64;
        let mut inode = [0; INODE];
        self.file.read_exact_at(&mut inode, at)?;
        Ok(Inode(inode))
    }

    fn block(&self, number: u64) -> Result<[u8; BLOCK], ReadError> {
        let mut block = [0; BLOCK];
        self.file.read_exact_at(&mut block, place(number)?)?;
        Ok(block)
    }

    /// The blocks of a directory, in order (Documentation/filesystems/ext4/ifork.rst, "Extent
    /// Tree").
    fn blocks(&self, inode: &Inode) -> Result<Vec<u64>, ReadError> {
        if get_u32(&inode.0, 0x20) & USES_EXTENTS == 0 {
            return Err(ReadError::Damaged("a directory of it has no extents"));
        }
        let mut blocks = Vec::new();
        let mut nodes = vec![inode.0[0x28..0x64].to_vec()];
        let mut seen = 0;
        while let Some(node) = nodes.pop() {
            seen += 1;
            let count = usize::from(get_u16(&node, 2));
            let is_leaf = get_u16(&node, 6) == 0;
            let is_whole = get_u16(&node, 0) == EXTENT_MAGIC && (count + 1) * EXTENT <= node.len();
            if !is_whole || seen + blocks.len() > MOST_BLOCKS {
                return Err(ReadError::Damaged("a map of it makes no sense"));
            }
            let entries = node[EXTENT..].chunks_exact(EXTENT).take(count);
            if is_leaf {
                for entry in entries {
                    let high = u64::from(get_u16(entry, 6));
                    let start = u64::from(get_u32(entry, 8)) | high << 32;
                    blocks.extend(start..start + u64::from(get_u16(entry, 4)));
                }
            } else {
                // The last one is taken first.
                for entry in entries.rev() {
                    let high = u64::from(get_u16(entry, 8));
                    let below = u64::from(get_u32(entry, 4)) | high << 32;
                    nodes.push(self.block(below)?.to_vec());
                }
            }
        }
        Ok(blocks)
    }
}

impl Inode {
    fn is_directory(&self) -> bool {
        get_u16(&self.0, 0) & 0o170_000 == FileType::DIRECTORY.mode
    }

    /// See `encode_time` of [`inode`](crate::inode).
    fn changed(&self) -> Timestamp {
        let (low, beyond) = (get_u32(&self.0, 0x0c), get_u32(&self.0, 0x84));
        Timestamp {
            seconds: i64::from(low.cast_signed()) + (i64::from(beyond & 3) << 32),
            nanoseconds: beyond >> 2,
        }
    }
}

fn place(block: u64) -> Result<u64, ReadError> {
    let place = block.checked_mul(BLOCK as u64);
    place.ok_or(ReadError::Damaged("it leads to a block that is none"))
}

/// Inodes and names of a block of a directory. What an index keeps in such blocks stands in
/// entries without an inode (Documentation/filesystems/ext4/directory.rst).
fn names(block: &[u8; BLOCK]) -> Result<Vec<(u32, &[u8])>, ReadError> {
    let mut names = Vec::new();
    let mut at = 0;
    while at + 8 <= BLOCK {
        let inode = get_u32(block, at);
        let length = usize::from(get_u16(block, at + 4));
        let name = block.get(at + 8..at + 8 + usize::from(block[at + 6]));
        match name {
            _ if length < 8 || at + length > BLOCK => {
                return Err(ReadError::Damaged("a directory of it makes no sense"));
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
    fn what_was_written_is_listed() {
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
    fn what_is_no_file_system_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Reader::open(file.path()), Err(ReadError::Io(_))));
        file.as_file().set_len(1 << 20).unwrap();
        let error = Reader::open(file.path()).unwrap_err();
        assert!(matches!(error, ReadError::Damaged(_)), "{error}");
    }
}
