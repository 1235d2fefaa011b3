//! The writer's interface: adds, replaces and removes entries, and stores the contents of files.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Read},
    path::Path,
};

use uuid::Uuid;

use crate::{
    Metadata, SparseRead, SpecialFile, WriteError,
    blocks::Blocks,
    error::shown,
    extents::{ExtentRange, Extents},
    finish::{self, WriterState},
    geometry::{BLOCK, Geometry},
    node::{Attributes, NodeId, NodeKind, SharedAttributes},
    resolve::Location,
    superblock,
    tree::{FreeExtents, Tree},
    xattr::Xattrs,
    xattr_values::XattrValues,
};

/// Maximum length of a symlink's target: with a final zero byte it fills a block.
const MAX_TARGET_LENGTH: usize = BLOCK - 1;

/// Number of bytes of a file that are read at once: whole blocks.
const CHUNK_SIZE: usize = 256 * BLOCK;

/// Block that is not written, but becomes a hole.
const ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];

/// Options of a new file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Size in bytes, from 256 MiB to 8 TiB, rounded down to block groups of 128 MiB.
    pub size: u64,
    /// UUID, which is also the seed of checksums and name hashes. With the same UUID, the same
    /// entries in the same order lead to the same image.
    pub uuid: Uuid,
    /// Size of the journal in blocks of 4 KiB.
    pub journal_blocks: u32,
}

impl Default for Options {
    /// Returns options for 512 GiB with a journal of 64 MiB and a random UUID.
    fn default() -> Self {
        Options {
            size: 512 << 30,
            uuid: Uuid::new_v4(),
            journal_blocks: 16384,
        }
    }
}

/// Writer of a new file system.
///
/// Paths are bytes, relative to the root, with or without a leading slash. They are resolved inside
/// the file system: symlinks are followed in it, and `..` of the root is the root. Missing parent
/// directories are created with mode 0755 and owned by root. An entry replaces an existing one of
/// its name; only a directory that replaces a directory keeps its entries. A method that fails
/// leaves the existing entries as they were.
pub struct Writer {
    state: WriterState,
    /// Buffer for the contents of files.
    chunk: Vec<u8>,
}

impl Writer {
    /// Creates a file system in `file`, which is overwritten if it exists. Unnamed temporary files
    /// are created in the same directory if names and attributes exceed the memory limit.
    pub fn create(file: &Path, options: &Options) -> Result<Writer, WriteError> {
        let geometry = Geometry::from_size(options.size)?;
        let directory = match file.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(file)
            .map_err(WriteError::Io)?;
        let mut blocks = Blocks::new(file, geometry)?;
        let mut extents = Extents::new(directory.to_owned());
        let mut journal = extents.begin();
        let mut logical = 0;
        while logical < options.journal_blocks {
            let run = blocks.allocate(options.journal_blocks - logical)?;
            extents.push(&mut journal, logical, run)?;
            logical += run.count;
        }
        let resize_block = match geometry.reserved_descriptor_blocks() {
            0 => None,
            _ => Some(blocks.allocate(1)?.start),
        };
        let seed = superblock::checksum_seed(options.uuid);
        Ok(Writer {
            state: WriterState {
                blocks,
                extents,
                tree: Tree::new(directory, superblock::hash_seed(options.uuid))?,
                values: XattrValues::new(directory.to_owned(), seed),
                geometry,
                uuid: options.uuid,
                journal,
                resize_block,
            },
            chunk: vec![0; CHUNK_SIZE],
        })
    }

    /// Starts an image layer on top of all previous ones. [`white_out`](Self::white_out) and
    /// [`make_opaque`](Self::make_opaque) do not remove entries of the current layer.
    pub fn begin_layer(&mut self) {
        self.state.tree.begin_layer();
    }

    /// Adds a directory, or replaces the attributes of an existing one.
    pub fn directory(&mut self, path: &[u8], metadata: &Metadata) -> Result<(), WriteError> {
        let attributes = self.attributes(metadata, path)?;
        let tree = &mut self.state.tree;
        let location = tree.make_parent(path)?;
        let (parent, name) = (location.directory, location.name.as_deref());
        let existing = match name {
            Some(name) => tree.child(parent, name)?,
            None => Some(parent),
        };
        match existing {
            Some(id) if is_directory(tree, id)? => {
                tree.set_attributes(parent, name, id, attributes)
            }
            _ => {
                let kind = NodeKind::empty_directory(parent);
                self.put(&location, attributes, kind, path)
            }
        }
    }

    /// Adds a regular file. `contents` is read to its end; blocks of zeroes become holes.
    pub fn file(
        &mut self,
        path: &[u8],
        metadata: &Metadata,
        contents: &mut dyn Read,
    ) -> Result<(), WriteError> {
        self.file_with_holes(path, metadata, &mut WithoutHoles(contents))
    }

    /// Adds a regular file like [`file`](Self::file), from contents that know their holes.
    pub fn file_with_holes(
        &mut self,
        path: &[u8],
        metadata: &Metadata,
        contents: &mut dyn SparseRead,
    ) -> Result<(), WriteError> {
        let attributes = self.attributes(metadata, path)?;
        let location = self.state.tree.make_parent(path)?;
        name_of(&location, path)?;
        let mut stored = self.state.extents.begin();
        let mut chunk = std::mem::take(&mut self.chunk);
        let size = self.store(contents, &mut chunk, &mut stored, path);
        self.chunk = chunk;
        match size {
            Ok(size) => {
                let kind = NodeKind::File { size, stored };
                self.put(&location, attributes, kind, path)
            }
            Err(error) => {
                self.state.extents.free(stored, &mut self.state.blocks)?;
                Err(error)
            }
        }
    }

    /// Adds a symbolic link.
    pub fn symlink(
        &mut self,
        path: &[u8],
        metadata: &Metadata,
        target: &[u8],
    ) -> Result<(), WriteError> {
        if target.is_empty() || target.len() > MAX_TARGET_LENGTH || target.contains(&0) {
            return Err(WriteError::Target { path: shown(path) });
        }
        let shared = self.shared_attributes(metadata, path)?;
        // If the inode also counts the blocks of a value, e2fsck misreads a short target as block
        // numbers.
        if shared.xattrs.value_ids().next().is_some() {
            return Err(WriteError::Xattrs {
                path: shown(path),
                reason: "those of a symbolic link must fit into its inode and one block",
            });
        }
        let tree = &mut self.state.tree;
        let attributes = tree.store_attributes(metadata.mtime.into(), &shared)?;
        let location = tree.make_parent(path)?;
        let target = tree.store_target(target)?;
        self.put(&location, attributes, target, path)
    }

    /// Adds a device, pipe or socket.
    pub fn special(
        &mut self,
        path: &[u8],
        metadata: &Metadata,
        special: SpecialFile,
    ) -> Result<(), WriteError> {
        if let SpecialFile::CharDevice { major, minor } | SpecialFile::BlockDevice { major, minor } =
            special
            && (major >= 1 << 12 || minor >= 1 << 20)
        {
            return Err(WriteError::Device { path: shown(path) });
        }
        let attributes = self.attributes(metadata, path)?;
        let location = self.state.tree.make_parent(path)?;
        self.put(&location, attributes, NodeKind::Special(special), path)
    }

    /// Adds another name to an existing file that is not a directory.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), WriteError> {
        let link_error = || WriteError::HardLink {
            path: shown(path),
            target: shown(target),
        };
        let tree = &mut self.state.tree;
        let (target_directory, target_id) = match tree.parent(target)? {
            Some(Location {
                directory,
                name: Some(name),
            }) => (Some(directory), tree.child(directory, &name)?),
            _ => (None, None),
        };
        let id = target_id.ok_or_else(link_error)?;
        if is_directory(tree, id)? {
            return Err(link_error());
        }
        let Location { directory, name } = tree.make_parent(path)?;
        let name = name.ok_or_else(link_error)?;
        let replaced = tree.child(directory, &name)?;
        if replaced == Some(id) {
            return Ok(());
        }
        // The link would replace a directory that contains the target, and so remove the target.
        if let (Some(replaced), Some(target_directory)) = (replaced, target_directory)
            && tree.is_below(target_directory, replaced)?
        {
            return Err(link_error());
        }
        tree.check_link_count(id, path)?;
        self.remove(|tree, free| tree.remove(directory, &name, free))?;
        self.state.tree.link(directory, &name, id)
    }

    /// Removes what lower layers have under this name, and keeps what the current layer has. Does
    /// nothing if the path does not exist. For the root, this is the same as
    /// [`make_opaque`](Self::make_opaque).
    pub fn white_out(&mut self, path: &[u8]) -> Result<(), WriteError> {
        match self.state.tree.parent(path)? {
            Some(Location { directory, name }) => self.remove(|tree, free| match name {
                Some(name) => tree.white_out(directory, &name, free),
                None => tree.make_opaque(directory, free),
            }),
            None => Ok(()),
        }
    }

    /// Removes everything that lower layers have in this directory.
    pub fn make_opaque(&mut self, path: &[u8]) -> Result<(), WriteError> {
        // With a name after it, the path is followed even if it is a symlink.
        match self.state.tree.parent(&[path, b"/x"].concat())? {
            Some(Location { directory, .. }) => {
                self.remove(|tree, free| tree.make_opaque(directory, free))
            }
            None => Ok(()),
        }
    }

    /// Writes the metadata and syncs the image. An image that was not finished is not a file
    /// system.
    pub fn finish(self) -> Result<(), WriteError> {
        finish::finish(self.state)
    }

    fn shared_attributes(
        &mut self,
        metadata: &Metadata,
        path: &[u8],
    ) -> Result<SharedAttributes, WriteError> {
        let WriterState {
            blocks,
            extents,
            values,
            ..
        } = &mut self.state;
        Ok(SharedAttributes {
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            xattrs: Xattrs::new(&metadata.xattrs, path, |value| {
                values.store(value, blocks, extents)
            })?,
        })
    }

    fn attributes(&mut self, metadata: &Metadata, path: &[u8]) -> Result<Attributes, WriteError> {
        let shared = self.shared_attributes(metadata, path)?;
        self.state
            .tree
            .store_attributes(metadata.mtime.into(), &shared)
    }

    /// Adds a node; one that already has the name is removed.
    fn put(
        &mut self,
        location: &Location,
        attributes: Attributes,
        kind: NodeKind,
        path: &[u8],
    ) -> Result<(), WriteError> {
        let (parent, name) = (location.directory, name_of(location, path)?);
        self.remove(|tree, free| tree.remove(parent, name, free))?;
        self.state.tree.insert(parent, name, attributes, kind)?;
        Ok(())
    }

    /// Calls `remove` with a callback that frees the blocks of removed files.
    fn remove(
        &mut self,
        remove: impl FnOnce(&mut Tree, FreeExtents<'_>) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let WriterState {
            blocks,
            extents,
            tree,
            ..
        } = &mut self.state;
        remove(tree, &mut |file| extents.free(file, blocks))
    }

    /// Stores the contents of a file; returns their size in bytes.
    fn store(
        &mut self,
        contents: &mut dyn SparseRead,
        chunk: &mut [u8],
        stored: &mut ExtentRange,
        path: &[u8],
    ) -> Result<u64, WriteError> {
        let (mut size, mut logical) = (0u64, 0u32);
        loop {
            let skipped = contents.skip_hole(BLOCK as u64);
            size = size.saturating_add(skipped);
            logical = block_position(u64::from(logical) + skipped / BLOCK as u64, path)?;
            let count = fill(contents, chunk).map_err(|cause| WriteError::Contents {
                path: shown(path),
                cause,
            })?;
            size += count as u64;
            let blocks = count.div_ceil(BLOCK);
            chunk[count..blocks * BLOCK].fill(0);
            let end = block_position(u64::from(logical) + blocks as u64, path)?;
            self.store_chunk(&chunk[..blocks * BLOCK], logical, stored)?;
            logical = end;
            if count < CHUNK_SIZE {
                return Ok(size);
            }
        }
    }

    /// Stores whole blocks, except those of zeroes.
    fn store_chunk(
        &mut self,
        chunk: &[u8],
        logical: u32,
        stored: &mut ExtentRange,
    ) -> Result<(), WriteError> {
        let WriterState {
            blocks, extents, ..
        } = &mut self.state;
        let is_hole = |block: usize| chunk[block * BLOCK..(block + 1) * BLOCK] == ZERO_BLOCK;
        let count = chunk.len() / BLOCK;
        let mut block = 0;
        while block < count {
            if is_hole(block) {
                block += 1;
                continue;
            }
            let end = (block..count)
                .find(|block| is_hole(*block))
                .unwrap_or(count);
            while block < end {
                let run = blocks.allocate((end - block) as u32)?;
                extents.push(stored, logical + block as u32, run)?;
                let bytes = &chunk[block * BLOCK..(block + run.count as usize) * BLOCK];
                blocks.write(run.start, bytes)?;
                block += run.count as usize;
            }
        }
        Ok(())
    }
}

fn is_directory(tree: &mut Tree, id: NodeId) -> Result<bool, WriteError> {
    Ok(matches!(tree.node(id)?.kind, NodeKind::Directory { .. }))
}

/// Returns the name of a location. One without a name is an existing directory, which nothing can
/// replace.
fn name_of<'a>(location: &'a Location, path: &[u8]) -> Result<&'a [u8], WriteError> {
    let name = location.name.as_deref();
    name.ok_or_else(|| WriteError::Name { path: shown(path) })
}

/// Checks that a position in a file, in blocks, fits into an extent.
fn block_position(blocks: u64, path: &[u8]) -> Result<u32, WriteError> {
    u32::try_from(blocks).map_err(|_| WriteError::TooLarge { path: shown(path) })
}

/// Contents without information about holes.
struct WithoutHoles<'a>(&'a mut dyn Read);

impl Read for WithoutHoles<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl SparseRead for WithoutHoles<'_> {
    fn skip_hole(&mut self, _: u64) -> u64 {
        0
    }
}

/// Reads until the buffer is full or the contents end; returns the number of bytes.
fn fill(contents: &mut dyn SparseRead, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match contents.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
