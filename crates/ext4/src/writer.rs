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
    extents::{Extents, Span},
    finish::{self, Taken},
    geometry::{BLOCK, Geometry},
    superblock,
    tree::{Attributes, Freed, Kind, NodeId, Place, Shared, Tree, empty_directory},
    values::Values,
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
pub struct Writer {
    taken: Taken,
    /// What is read of files goes through here.
    chunk: Vec<u8>,
}

impl Writer {
    /// Begins a file system in a new file, or in an existing one's place. What has to be kept
    /// until the end and has no room in memory will be in a file without a name beside it.
    pub fn create(file: &Path, options: &Options) -> Result<Writer, Error> {
        let geometry = Geometry::of(options.size)?;
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
            .map_err(Error::Io)?;
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
            taken: Taken {
                blocks,
                extents,
                tree: Tree::new(directory, superblock::hash_seed(options.uuid))?,
                values: Values::new(directory.to_owned(), seed),
                geometry,
                uuid: options.uuid,
                journal,
                resize_block,
            },
            chunk: vec![0; CHUNK],
        })
    }

    /// Whatever comes now belongs to a layer over all that came before.
    pub fn begin_layer(&mut self) {
        self.taken.tree.begin_layer();
    }

    /// Adds a directory, or gives one that is there these attributes.
    pub fn directory(&mut self, path: &[u8], metadata: &Metadata) -> Result<(), Error> {
        let attributes = self.attributes(metadata, path)?;
        let tree = &mut self.taken.tree;
        let (parent, name) = tree.make_parent(path)?;
        let existing = match &name {
            Some(name) => tree.child(parent, name)?,
            None => Some(parent),
        };
        match existing {
            Some(id) if is_directory(tree, id)? => tree.touch(&(parent, name), id, attributes),
            _ => self.put((parent, name), attributes, empty_directory(parent), path),
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
        let attributes = self.attributes(metadata, path)?;
        let place = self.taken.tree.make_parent(path)?;
        ensure_has_name(&place, path)?;
        let mut stored = self.taken.extents.begin();
        let mut chunk = std::mem::take(&mut self.chunk);
        let size = self.store(contents, &mut chunk, &mut stored, path);
        self.chunk = chunk;
        match size {
            Ok(size) => self.put(place, attributes, Kind::File { size, stored }, path),
            Err(error) => {
                self.taken.extents.free(stored, &mut self.taken.blocks)?;
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
        let shared = self.shared(metadata, path)?;
        // e2fsck takes a short target for numbers of blocks if the inode counts those of a value.
        if shared.xattrs.apart().next().is_some() {
            return Err(Error::Xattrs {
                path: shown(path),
                reason: "a symbolic link's have to fit into its inode and a block",
            });
        }
        let tree = &mut self.taken.tree;
        let attributes = tree.attributes(metadata.mtime.into(), &shared)?;
        let place = tree.make_parent(path)?;
        let target = tree.keep_target(target)?;
        self.put(place, attributes, target, path)
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
        let attributes = self.attributes(metadata, path)?;
        let place = self.taken.tree.make_parent(path)?;
        self.put(place, attributes, Kind::Special(special), path)
    }

    /// Gives a file that is there another name.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Error> {
        let no_file = || Error::HardLink {
            path: shown(path),
            target: shown(target),
        };
        let tree = &mut self.taken.tree;
        let (directory, found) = match tree.parent(target)? {
            Some((parent, Some(name))) => (Some(parent), tree.child(parent, &name)?),
            _ => (None, None),
        };
        let id = found.ok_or_else(no_file)?;
        if is_directory(tree, id)? {
            return Err(no_file());
        }
        let (parent, name) = tree.make_parent(path)?;
        let name = name.ok_or_else(no_file)?;
        let replaced = tree.child(parent, &name)?;
        if replaced == Some(id) {
            return Ok(());
        }
        // With what the link takes the place of, the file itself would go.
        if let (Some(replaced), Some(directory)) = (replaced, directory)
            && tree.is_below(directory, replaced)?
        {
            return Err(no_file());
        }
        tree.ensure_may_be_linked(id, path)?;
        self.remove(|tree, freed| tree.remove(parent, &name, freed))?;
        self.taken.tree.link(parent, &name, id)
    }

    /// Removes what lower layers brought under this name. Whatever this layer itself brought
    /// stays. Nothing there is no failure.
    pub fn white_out(&mut self, path: &[u8]) -> Result<(), Error> {
        match self.taken.tree.parent(path)? {
            Some((parent, Some(name))) => {
                self.remove(|tree, freed| tree.white_out(parent, &name, freed))
            }
            Some((root, None)) => self.remove(|tree, freed| tree.make_opaque(root, freed)),
            None => Ok(()),
        }
    }

    /// Removes all that lower layers brought into this directory.
    pub fn make_opaque(&mut self, path: &[u8]) -> Result<(), Error> {
        // With a name behind it the directory is on the way, so a link to it is followed.
        match self.taken.tree.parent(&[path, b"/x"].concat())? {
            Some((directory, _)) => self.remove(|tree, freed| tree.make_opaque(directory, freed)),
            None => Ok(()),
        }
    }

    /// Writes all that is not written yet, and makes it last.
    pub fn finish(self) -> Result<(), Error> {
        finish::finish(self.taken)
    }

    fn shared(&mut self, metadata: &Metadata, path: &[u8]) -> Result<Shared, Error> {
        let Taken {
            blocks,
            extents,
            values,
            ..
        } = &mut self.taken;
        Ok(Shared {
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            xattrs: Xattrs::of(&metadata.xattrs, path, |value| {
                values.keep(value, blocks, extents)
            })?,
        })
    }

    fn attributes(&mut self, metadata: &Metadata, path: &[u8]) -> Result<Attributes, Error> {
        let shared = self.shared(metadata, path)?;
        self.taken.tree.attributes(metadata.mtime.into(), &shared)
    }

    /// Puts a node under its name, in the place of whatever is there.
    fn put(
        &mut self,
        place: Place,
        attributes: Attributes,
        kind: Kind,
        path: &[u8],
    ) -> Result<(), Error> {
        let name = ensure_has_name(&place, path)?;
        let (parent, _) = place;
        self.remove(|tree, freed| tree.remove(parent, name, freed))?;
        self.taken.tree.insert(parent, name, attributes, kind)?;
        Ok(())
    }

    /// Lets something be removed from the tree, and frees the blocks of files that are gone.
    fn remove(
        &mut self,
        from: impl FnOnce(&mut Tree, Freed<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Taken {
            blocks,
            extents,
            tree,
            ..
        } = &mut self.taken;
        from(tree, &mut |file| extents.free(file, blocks))
    }

    /// Stores contents to their end; returns how many bytes there were.
    fn store(
        &mut self,
        contents: &mut dyn Contents,
        chunk: &mut [u8],
        stored: &mut Span,
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
            self.store_chunk(&chunk[..blocks * BLOCK], logical, stored)?;
            logical = end;
            if count < CHUNK {
                return Ok(size);
            }
        }
    }

    /// Stores whole blocks, leaving out those of zeroes.
    fn store_chunk(&mut self, chunk: &[u8], logical: u32, stored: &mut Span) -> Result<(), Error> {
        let Taken {
            blocks, extents, ..
        } = &mut self.taken;
        let is_hole = |block: usize| chunk[block * BLOCK..(block + 1) * BLOCK] == HOLE;
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

fn is_directory(tree: &mut Tree, id: NodeId) -> Result<bool, Error> {
    Ok(matches!(tree.node(id)?.kind, Kind::Directory { .. }))
}

/// The name of a place that is not the root itself, which can be nothing but a directory.
fn ensure_has_name<'a>((_, name): &'a Place, path: &[u8]) -> Result<&'a [u8], Error> {
    name.as_deref()
        .ok_or_else(|| Error::Name { path: shown(path) })
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
