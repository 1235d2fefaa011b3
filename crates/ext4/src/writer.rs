//! Taking entries.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Read},
    path::Path,
};

use uuid::Uuid;

use crate::{
    Contents, Error, Metadata, Special,
    blocks::Blocks,
    error::shown,
    extents::{Extents, Run},
    finish,
    geometry::{BLOCK, Geometry},
    tree::{Attributes, Kind, NodeId, Place, Tree, directory},
    xattr::Xattrs,
};

/// The longest target of a symlink: with its end it fills a block.
const LONGEST_TARGET: usize = BLOCK - 1;

/// Bytes of a file that are read at once: whole blocks.
const CHUNK: usize = 256 * BLOCK;

/// What nothing is written for.
const HOLE: [u8; BLOCK] = [0; BLOCK];

/// What kind of file system is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes, rounded down to block groups of 128 MiB.
    pub size: u64,
    /// Its id, which also seeds its checksums.
    pub uuid: Uuid,
    /// Blocks of 4 KiB in the journal.
    pub journal_blocks: u32,
}

impl Default for Options {
    /// 512 GiB with a journal of 64 MiB, and an id of its own.
    fn default() -> Self {
        Options {
            size: 512 << 30,
            uuid: Uuid::new_v4(),
            journal_blocks: 16384,
        }
    }
}

/// A file system that is being written.
///
/// Paths are bytes, from the root, with or without a leading slash. They are resolved as inside
/// the file system: links on the way are followed in it, and `..` ends at the root. Missing
/// directories on the way are made, 0755 and root's. An entry replaces what is there under its
/// name; only a directory over a directory keeps what is in it. An entry that fails changes
/// nothing.
#[derive(Debug)]
pub struct Writer {
    blocks: Blocks,
    tree: Tree,
    geometry: Geometry,
    uuid: Uuid,
    journal: Extents,
    /// The blocks' numbers of a grown file system's descriptors lead from here.
    resize_block: Option<u64>,
    /// What is read of files goes through here.
    chunk: Vec<u8>,
}

impl Writer {
    /// Begins a file system in a new file, or in an existing one's place.
    pub fn create(file: &Path, options: &Options) -> Result<Writer, Error> {
        let geometry = Geometry::of(options.size)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(file)
            .map_err(Error::Io)?;
        let mut blocks = Blocks::new(file, geometry)?;
        let mut journal = Extents::default();
        let mut logical = 0;
        while logical < options.journal_blocks {
            let run = blocks.allocate(options.journal_blocks - logical)?;
            journal.push(logical, run);
            logical += run.count;
        }
        let resize_block = match geometry.reserved_descriptor_blocks() {
            0 => None,
            _ => Some(blocks.allocate(1)?.start),
        };
        Ok(Writer {
            blocks,
            tree: Tree::new(),
            geometry,
            uuid: options.uuid,
            journal,
            resize_block,
            chunk: vec![0; CHUNK],
        })
    }

    /// Whatever comes now belongs to a layer over all that came before.
    pub fn begin_layer(&mut self) {
        self.tree.begin_layer();
    }

    /// Adds a directory, or gives one that is there these attributes.
    pub fn directory(&mut self, path: &[u8], metadata: &Metadata) -> Result<(), Error> {
        let attributes = self.tree.attributes(metadata, path)?;
        let (parent, name) = self.tree.make_parent(path)?;
        let existing = match &name {
            Some(name) => self.tree.child(parent, name),
            None => Some(parent),
        };
        match existing.filter(|id| self.tree.children(*id).is_some()) {
            Some(id) => {
                self.tree.touch(&(parent, name), id, attributes);
                Ok(())
            }
            None => self.put((parent, name), attributes, directory(parent), path),
        }
    }

    /// Adds a file with these contents, read to their end. Blocks of zeroes become holes.
    pub fn file(
        &mut self,
        path: &[u8],
        metadata: &Metadata,
        contents: &mut dyn Read,
    ) -> Result<(), Error> {
        self.file_with_holes(path, metadata, &mut Solid(contents))
    }

    /// As [`file`](Writer::file), of contents that know where their holes are.
    pub fn file_with_holes(
        &mut self,
        path: &[u8],
        metadata: &Metadata,
        contents: &mut dyn Contents,
    ) -> Result<(), Error> {
        let attributes = self.tree.attributes(metadata, path)?;
        let place = self.tree.make_parent(path)?;
        let place = self.reserve(place, 0, path)?;
        let mut extents = Extents::default();
        let mut chunk = std::mem::take(&mut self.chunk);
        let stored = self.store(contents, &mut chunk, &mut extents, path);
        self.chunk = chunk;
        match stored {
            Ok(size) => self.put_reserved(place, attributes, Kind::File { size, extents }),
            Err(error) => {
                self.free([extents])?;
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
    ) -> Result<(), Error> {
        if target.is_empty() || target.len() > LONGEST_TARGET || target.contains(&0) {
            return Err(Error::Target { path: shown(path) });
        }
        let attributes = self.tree.attributes(metadata, path)?;
        // e2fsck takes a short target for numbers of blocks if the inode counts those of a value.
        let xattrs = attributes.shared.xattrs.as_ref();
        if xattrs.is_some_and(Xattrs::needs_inode) {
            return Err(Error::Xattrs {
                path: shown(path),
                reason: "a symbolic link's have to fit into its inode and a block",
            });
        }
        let place = self.tree.make_parent(path)?;
        self.put(place, attributes, Kind::Symlink(target.into()), path)
    }

    /// Adds a device, pipe or socket.
    pub fn special(
        &mut self,
        path: &[u8],
        metadata: &Metadata,
        special: Special,
    ) -> Result<(), Error> {
        if let Special::CharDevice { major, minor } | Special::BlockDevice { major, minor } =
            special
            && (major >= 1 << 12 || minor >= 1 << 20)
        {
            return Err(Error::Device { path: shown(path) });
        }
        let attributes = self.tree.attributes(metadata, path)?;
        let place = self.tree.make_parent(path)?;
        self.put(place, attributes, Kind::Special(special), path)
    }

    /// Gives a file that is there another name.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Error> {
        let no_file = || Error::HardLink {
            path: shown(path),
            target: shown(target),
        };
        let found = match self.tree.parent(target)? {
            Some((parent, Some(name))) => self.tree.child(parent, &name),
            _ => None,
        };
        let id = found
            .filter(|id| self.tree.children(*id).is_none())
            .ok_or_else(no_file)?;
        let (parent, name) = self.tree.make_parent(path)?;
        let name = name.ok_or_else(no_file)?;
        if self.tree.child(parent, &name) == Some(id) {
            return Ok(());
        }
        self.tree.ensure_may_be_linked(id, path)?;
        self.tree.reserve(&name, 0, path)?;
        let freed = self.tree.remove(parent, &name);
        self.free(freed)?;
        self.tree.link(parent, name, id);
        Ok(())
    }

    /// Removes what lower layers brought under this name. Whatever this layer itself brought
    /// stays. Nothing there is no failure.
    pub fn white_out(&mut self, path: &[u8]) -> Result<(), Error> {
        let freed = match self.tree.parent(path)? {
            Some((parent, Some(name))) => self.tree.white_out(parent, &name),
            Some((root, None)) => self.tree.make_opaque(root),
            None => Vec::new(),
        };
        self.free(freed)
    }

    /// Removes all that lower layers brought into this directory.
    pub fn make_opaque(&mut self, path: &[u8]) -> Result<(), Error> {
        // With a name behind it the directory is on the way, so a link to it is followed.
        let freed = match self.tree.parent(&[path, b"/x"].concat())? {
            Some((directory, _)) => self.tree.make_opaque(directory),
            None => Vec::new(),
        };
        self.free(freed)
    }

    /// Writes all that is not written yet, and makes it last.
    pub fn finish(self) -> Result<(), Error> {
        finish::finish(
            self.blocks,
            self.tree,
            self.geometry,
            self.uuid,
            &self.journal,
            self.resize_block,
        )
    }

    /// Puts a node under its name, in the place of whatever is there.
    fn put(
        &mut self,
        place: Place,
        attributes: Attributes,
        kind: Kind,
        path: &[u8],
    ) -> Result<(), Error> {
        let place = self.reserve(place, kind.memory(), path)?;
        self.put_reserved(place, attributes, kind)
    }

    fn reserve(
        &mut self,
        (parent, name): Place,
        beside: u64,
        path: &[u8],
    ) -> Result<(NodeId, Box<[u8]>), Error> {
        // The root itself can be nothing but a directory.
        let name = name.ok_or_else(|| Error::Name { path: shown(path) })?;
        self.tree.reserve(&name, beside, path)?;
        Ok((parent, name))
    }

    fn put_reserved(
        &mut self,
        (parent, name): (NodeId, Box<[u8]>),
        attributes: Attributes,
        kind: Kind,
    ) -> Result<(), Error> {
        let freed = self.tree.remove(parent, &name);
        self.free(freed)?;
        self.tree.insert(parent, name, attributes, kind);
        Ok(())
    }

    fn free(&mut self, files: impl IntoIterator<Item = Extents>) -> Result<(), Error> {
        for extents in files {
            for run in extents.runs() {
                self.blocks.free(run)?;
            }
        }
        Ok(())
    }

    /// Stores contents to their end; returns how many bytes there were.
    fn store(
        &mut self,
        contents: &mut dyn Contents,
        chunk: &mut [u8],
        extents: &mut Extents,
        path: &[u8],
    ) -> Result<u64, Error> {
        let (mut size, mut logical) = (0u64, 0u32);
        loop {
            let skipped = contents.skip_hole(BLOCK as u64);
            size = size.saturating_add(skipped);
            logical = blocks_up_to(u64::from(logical) + skipped / BLOCK as u64, path)?;
            let count = fill(contents, chunk).map_err(|source| Error::Contents {
                path: shown(path),
                source,
            })?;
            size += count as u64;
            let blocks = count.div_ceil(BLOCK);
            chunk[count..blocks * BLOCK].fill(0);
            let end = blocks_up_to(u64::from(logical) + blocks as u64, path)?;
            let known = extents.memory();
            self.store_chunk(&chunk[..blocks * BLOCK], logical, extents)?;
            self.tree.take_memory(extents.memory() - known, path)?;
            logical = end;
            if count < CHUNK {
                return Ok(size);
            }
        }
    }

    /// Stores whole blocks, leaving out those of zeroes.
    fn store_chunk(
        &mut self,
        chunk: &[u8],
        logical: u32,
        extents: &mut Extents,
    ) -> Result<(), Error> {
        let is_hole = |block: usize| chunk[block * BLOCK..(block + 1) * BLOCK] == HOLE;
        let blocks = chunk.len() / BLOCK;
        let mut block = 0;
        while block < blocks {
            if is_hole(block) {
                block += 1;
                continue;
            }
            let end = (block..blocks)
                .find(|block| is_hole(*block))
                .unwrap_or(blocks);
            while block < end {
                let Run { start, count } = self.blocks.allocate((end - block) as u32)?;
                extents.push(logical + block as u32, Run { start, count });
                let bytes = &chunk[block * BLOCK..(block + count as usize) * BLOCK];
                self.blocks.write(start, bytes)?;
                block += count as usize;
            }
        }
        Ok(())
    }
}

/// A place in a file in blocks.
fn blocks_up_to(blocks: u64, path: &[u8]) -> Result<u32, Error> {
    u32::try_from(blocks).map_err(|_| Error::TooLarge { path: shown(path) })
}

/// Contents that know of no holes.
struct Solid<'a>(&'a mut dyn Read);

impl Read for Solid<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Contents for Solid<'_> {
    fn skip_hole(&mut self, _: u64) -> u64 {
        0
    }
}

/// Reads until the buffer is full or there is no more.
fn fill(contents: &mut dyn Contents, buffer: &mut [u8]) -> std::io::Result<usize> {
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
