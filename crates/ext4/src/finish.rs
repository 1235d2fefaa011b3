//! Writing what only the whole tree tells: directories, inodes, bitmaps, descriptors,
//! superblocks.

use uuid::Uuid;

use crate::{
    Error,
    blocks::Blocks,
    bytes::{crc, high, high_half, low, low_half, put_u16, put_u32},
    directory::{self, Identity},
    error::shown,
    extents::{Extents, Map, Span},
    geometry::{BLOCK, BLOCKS_PER_GROUP, DESCRIPTOR, Geometry, INODES_PER_GROUP},
    inode::{self, Contents, FileType, HOLDS_XATTR, IS_INDEXED, InodeTime, USES_EXTENTS},
    inode_table::InodeTables,
    journal,
    pages::Kept,
    resize,
    superblock::{self, FIRST_INODE, JOURNAL_INODE, RESIZE_INODE, Superblock},
    tree::{Kind, NodeId, ROOT, Shared, Tree, empty_directory},
    values::Values,
    xattr::Placed,
};

const ROOT_INODE: u32 = 2;
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// A directory with more than this many links says 1 (`dir_nlink`).
const MOST_LINKS: u32 = 65000;

/// A group with none of its inodes in use.
const INODES_UNUSED: u16 = 1;
/// A group with no blocks in use but its overhead.
const BLOCKS_UNUSED: u16 = 2;
/// A group whose inode table holds zeroes where it holds no inode: a new file does.
const TABLE_ZEROED: u16 = 4;

/// What has been taken: all that a file system is made of.
#[derive(Debug)]
pub struct Taken {
    /// Its blocks.
    pub blocks: Blocks,
    /// Where those of each file are.
    pub extents: Extents,
    /// Its names.
    pub tree: Tree,
    /// Values of extended attributes.
    pub values: Values,
    /// Its size.
    pub geometry: Geometry,
    /// Its id.
    pub uuid: Uuid,
    /// The journal's blocks.
    pub journal: Span,
    /// The blocks' numbers of a grown file system's descriptors lead from here.
    pub resize_block: Option<u64>,
}

/// Writes everything and makes it last.
pub fn finish(mut taken: Taken) -> Result<(), Error> {
    let numbers = Numbers::give(&mut taken)?;
    let Taken {
        blocks,
        extents,
        tree,
        values,
        geometry,
        uuid,
        journal,
        resize_block,
    } = taken;
    let mut builder = Builder {
        tables: InodeTables::new(geometry),
        blocks,
        extents,
        tree,
        values,
        seed: superblock::checksum_seed(uuid),
    };
    builder.node(ROOT)?;
    if let Some(block) = resize_block {
        let contents = resize::write(&mut builder.blocks, geometry, block)?;
        builder.reserved_inode(RESIZE_INODE, &contents)?;
    }
    let journal = builder.journal(journal, uuid)?;
    builder.reserved_inode(JOURNAL_INODE, &journal)?;
    if let Some(id) = numbers.lost_and_found {
        builder.node(id)?;
    }
    for id in ROOT + 1..builder.tree.bound() {
        if Some(id) != numbers.lost_and_found {
            builder.node(id)?;
        }
    }
    builder.values()?;
    builder.tables.flush(&builder.blocks)?;
    let Builder {
        mut blocks, seed, ..
    } = builder;
    let groups = Groups::write(&mut blocks, &numbers, geometry, seed)?;
    let superblock = Superblock {
        geometry,
        uuid,
        free_blocks: groups.free_blocks,
        free_inodes: geometry.inodes() - numbers.last,
        has_xattr_inodes: numbers.has_values,
        journal: (&journal.map, journal.size),
    };
    write_superblocks(&mut blocks, &superblock, &groups.descriptors, geometry)?;
    blocks.finish()
}

/// The inodes' numbers: lost+found has the first that is free, then the nodes have theirs in
/// their order, then values of extended attributes.
struct Numbers {
    last: u32,
    lost_and_found: Option<NodeId>,
    has_values: bool,
    /// How many directories each group has.
    directories: Vec<u32>,
}

impl Numbers {
    /// Gives each node and each value its number.
    fn give(taken: &mut Taken) -> Result<Numbers, Error> {
        let tree = &mut taken.tree;
        if tree.child(ROOT, LOST_AND_FOUND)?.is_none() {
            let attributes = tree.attributes(InodeTime::EPOCH, &Shared::of_mode(0o700))?;
            tree.insert(ROOT, LOST_AND_FOUND, attributes, empty_directory(ROOT))?;
        }
        let mut numbers = Numbers {
            last: FIRST_INODE - 1,
            lost_and_found: tree.child(ROOT, LOST_AND_FOUND)?,
            has_values: false,
            directories: vec![0; taken.geometry.groups() as usize],
        };
        numbers.node(taken, ROOT, ROOT_INODE)?;
        for id in numbers
            .lost_and_found
            .into_iter()
            .chain(ROOT + 1..taken.tree.bound())
        {
            let node = taken.tree.node(id)?;
            if node.inode == 0 && !matches!(node.kind, Kind::Removed) {
                let next = numbers.next(taken.geometry)?;
                numbers.node(taken, id, next)?;
            }
        }
        numbers.values(taken)?;
        Ok(numbers)
    }

    fn next(&mut self, geometry: Geometry) -> Result<u32, Error> {
        if self.last == geometry.inodes() {
            return Err(Error::NoInodes);
        }
        self.last += 1;
        Ok(self.last)
    }

    fn node(&mut self, taken: &mut Taken, id: NodeId, inode: u32) -> Result<(), Error> {
        let Taken { tree, values, .. } = taken;
        tree.give_inode(id, inode)?;
        let node = tree.node(id)?;
        if let Kind::Directory { .. } = node.kind {
            self.directories[((inode - 1) / INODES_PER_GROUP) as usize] += 1;
        }
        if values.all.length() > 0 {
            for id in tree.shared(node.attributes)?.xattrs.apart() {
                let mut value = values.all.get(id)?;
                value.references += 1;
                values.all.set(id, &value)?;
            }
        }
        Ok(())
    }

    /// Numbers the values that some node has; what the others took is free.
    fn values(&mut self, taken: &mut Taken) -> Result<(), Error> {
        for id in 0..taken.values.all.length() {
            let mut value = taken.values.all.get(id)?;
            if value.references == 0 {
                taken.extents.free(value.stored, &mut taken.blocks)?;
                continue;
            }
            self.has_values = true;
            value.inode = self.next(taken.geometry)?;
            taken.values.all.set(id, &value)?;
        }
        Ok(())
    }
}

struct Builder {
    blocks: Blocks,
    extents: Extents,
    tables: InodeTables,
    tree: Tree,
    values: Values,
    seed: u32,
}

impl Builder {
    fn journal(&mut self, journal: Span, uuid: Uuid) -> Result<Contents, Error> {
        let mut count = 0;
        let mut first = None;
        for run in self.extents.runs(journal) {
            let run = run?;
            count += run.count;
            first.get_or_insert(run.start);
        }
        if let Some(first) = first {
            self.blocks
                .write(first, &journal::superblock(count, uuid))?;
        }
        let seed = inode::seed_of(JOURNAL_INODE, self.seed);
        let size = u64::from(count) * BLOCK as u64;
        self.mapped(FileType::FILE, size, journal, seed)
    }

    /// Writes a node's own blocks and its inode.
    fn node(&mut self, id: NodeId) -> Result<(), Error> {
        let node = self.tree.node(id)?;
        let seed = inode::seed_of(node.inode, self.seed);
        let mut links = node.links;
        let mut contents = match node.kind {
            Kind::Removed => return Ok(()),
            Kind::Directory {
                parent,
                directories,
                ..
            } => {
                links = directory_links(directories);
                self.directory(id, node.inode, parent, seed)?
            }
            Kind::File { size, stored } => self.mapped(FileType::FILE, size, stored, seed)?,
            Kind::Symlink(target) => self.symlink(target, seed)?,
            Kind::Special(special) => Contents {
                map: inode::device_map(special),
                ..Contents::empty(FileType::of(&node.kind))
            },
        };
        let shared = self.tree.shared(node.attributes)?;
        let placed = shared.xattrs.placed(|id| {
            let value = self.values.all.get(id)?;
            Ok::<_, Error>((value.inode, value.hash))
        })?;
        contents.blocks += placed.blocks_apart;
        if placed.needs_block() {
            let run = self.blocks.allocate(1)?;
            self.blocks
                .write(run.start, &placed.block(run.start, self.seed))?;
            contents.xattr_block = run.start;
            contents.blocks += 1;
        }
        let mtime = node.attributes.mtime;
        let inode = inode::encode(&contents, mtime, &shared, links, &placed, seed);
        self.tables.put(&self.blocks, node.inode, &inode)
    }

    /// Writes one of the inodes that no directory names.
    fn reserved_inode(&mut self, number: u32, contents: &Contents) -> Result<(), Error> {
        let seed = inode::seed_of(number, self.seed);
        let shared = Shared::of_mode(0o600);
        let none = Placed::default();
        let inode = inode::encode(contents, InodeTime::EPOCH, &shared, 1, &none, seed);
        self.tables.put(&self.blocks, number, &inode)
    }

    /// Writes the inodes of values.
    fn values(&mut self) -> Result<(), Error> {
        for id in 0..self.values.all.length() {
            let value = self.values.all.get(id)?;
            if value.references == 0 {
                continue;
            }
            let seed = inode::seed_of(value.inode, self.seed);
            let size = u64::from(value.size);
            let mut contents = self.mapped(FileType::FILE, size, value.stored, seed)?;
            contents.flags |= HOLDS_XATTR;
            contents.shared_value = Some(value);
            self.reserved_inode(value.inode, &contents)?;
        }
        Ok(())
    }

    fn mapped(
        &mut self,
        file_type: FileType,
        size: u64,
        stored: Span,
        seed: u32,
    ) -> Result<Contents, Error> {
        let Map { root, blocks } = self.extents.map(stored, &mut self.blocks, seed)?;
        Ok(Contents {
            size,
            blocks,
            map: root,
            flags: USES_EXTENTS,
            ..Contents::empty(file_type)
        })
    }

    fn directory(
        &mut self,
        id: NodeId,
        inode: u32,
        parent: NodeId,
        seed: u32,
    ) -> Result<Contents, Error> {
        let identity = Identity {
            id,
            inode,
            parent: self.tree.node(parent)?.inode,
            seed,
        };
        let (blocks, extents) = (&mut self.blocks, &mut self.extents);
        let Some(written) = directory::write(blocks, extents, &mut self.tree, identity)? else {
            return Err(Error::DirectoryTooLarge {
                path: shown(&self.tree.path(id)?),
            });
        };
        let size = u64::from(written.blocks) * BLOCK as u64;
        let mut contents = self.mapped(FileType::DIRECTORY, size, written.stored, seed)?;
        if written.is_indexed {
            contents.flags |= IS_INDEXED;
        }
        Ok(contents)
    }

    /// A target of up to 59 bytes is in the inode, a longer one in a block.
    fn symlink(&mut self, target: Kept, seed: u32) -> Result<Contents, Error> {
        let target = self.tree.bytes(target)?;
        if target.len() < 60 {
            let mut contents = Contents::empty(FileType::SYMLINK);
            contents.size = target.len() as u64;
            contents.map[..target.len()].copy_from_slice(&target);
            return Ok(contents);
        }
        let stored = self.blocks.store(&target, &mut self.extents)?;
        self.mapped(FileType::SYMLINK, target.len() as u64, stored, seed)
    }
}

/// A directory is named by its entry, by itself, and by each directory in it.
fn directory_links(directories: u32) -> u16 {
    match 2 + directories {
        links if links > MOST_LINKS => 1,
        links => links as u16,
    }
}

/// All groups' bitmaps, written, and their descriptors.
struct Groups {
    descriptors: Vec<u8>,
    free_blocks: u64,
}

impl Groups {
    fn write(
        blocks: &mut Blocks,
        numbers: &Numbers,
        geometry: Geometry,
        seed: u32,
    ) -> Result<Groups, Error> {
        let mut groups = Groups {
            descriptors: vec![0; geometry.descriptor_blocks() as usize * BLOCK],
            free_blocks: 0,
        };
        for group in 0..geometry.groups() {
            let before = u64::from(group) * u64::from(INODES_PER_GROUP);
            let used = u64::from(numbers.last)
                .saturating_sub(before)
                .min(u64::from(INODES_PER_GROUP)) as u32;
            let at = group as usize * DESCRIPTOR;
            let descriptor = Self::write_group(
                blocks,
                geometry,
                group,
                used,
                numbers.directories[group as usize],
                seed,
            )?;
            groups.descriptors[at..at + DESCRIPTOR].copy_from_slice(&descriptor.bytes);
            groups.free_blocks += u64::from(descriptor.free_blocks);
        }
        Ok(groups)
    }

    fn write_group(
        blocks: &mut Blocks,
        geometry: Geometry,
        group: u32,
        used_inodes: u32,
        directories: u32,
        seed: u32,
    ) -> Result<Descriptor, Error> {
        let mut flags = TABLE_ZEROED;
        let mut block_checksum = 0;
        let mut free_blocks = BLOCKS_PER_GROUP - geometry.overhead(group);
        let is_last = group + 1 == geometry.groups();
        if blocks.is_touched(group) || is_last {
            let bitmap = blocks.bitmap(group);
            free_blocks = bitmap.free();
            block_checksum = crc(seed, bitmap.bytes());
            blocks.write(geometry.block_bitmap(group), bitmap.bytes())?;
        } else {
            flags |= BLOCKS_UNUSED;
        }
        let mut inode_checksum = 0;
        if used_inodes > 0 {
            let bitmap = inode_bitmap(used_inodes);
            inode_checksum = crc(seed, &bitmap[..(INODES_PER_GROUP / 8) as usize]);
            blocks.write(geometry.inode_bitmap(group), &bitmap)?;
        } else {
            flags |= INODES_UNUSED;
        }
        let mut bytes = [0; DESCRIPTOR];
        let unused = INODES_PER_GROUP - used_inodes;
        for (at, at_high, place) in [
            (0x00, 0x20, geometry.block_bitmap(group)),
            (0x04, 0x24, geometry.inode_bitmap(group)),
            (0x08, 0x28, geometry.inode_table(group)),
        ] {
            put_u32(&mut bytes, at, low(place));
            put_u32(&mut bytes, at_high, high(place));
        }
        for (at, at_high, number) in [
            (0x0c, 0x2c, free_blocks),
            (0x0e, 0x2e, unused),
            (0x10, 0x30, directories),
            (0x1c, 0x32, unused),
            (0x18, 0x38, block_checksum),
            (0x1a, 0x3a, inode_checksum),
        ] {
            put_u16(&mut bytes, at, low_half(number));
            put_u16(&mut bytes, at_high, high_half(number));
        }
        put_u16(&mut bytes, 0x12, flags);
        let checksum = crc(crc(seed, &group.to_le_bytes()), &bytes);
        put_u16(&mut bytes, 0x1e, low_half(checksum));
        Ok(Descriptor { bytes, free_blocks })
    }
}

struct Descriptor {
    bytes: [u8; DESCRIPTOR],
    free_blocks: u32,
}

/// The first `used` bits set, and all beyond the group's inodes.
fn inode_bitmap(used: u32) -> Vec<u8> {
    let is_set = |bit: u32| bit < used || bit >= INODES_PER_GROUP;
    let byte = |byte: u32| {
        (0..8).fold(0, |bits, bit| {
            bits | (u8::from(is_set(byte * 8 + bit)) << bit)
        })
    };
    (0..BLOCK as u32).map(byte).collect()
}

/// The superblock and the descriptors, and their copies.
fn write_superblocks(
    blocks: &mut Blocks,
    superblock: &Superblock<'_>,
    descriptors: &[u8],
    geometry: Geometry,
) -> Result<(), Error> {
    for group in geometry.groups_with_superblock() {
        let mut block = vec![0; BLOCK];
        // The first one leaves room for a boot block; the copies do not.
        let at = if group == 0 { superblock::SIZE } else { 0 };
        block[at..at + superblock::SIZE].copy_from_slice(&superblock.encode(group));
        blocks.write(geometry.start(group), &block)?;
        blocks.write(geometry.start(group) + 1, descriptors)?;
    }
    Ok(())
}
