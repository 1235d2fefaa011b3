//! Writing what only the whole tree tells: directories, inodes, bitmaps, descriptors,
//! superblocks.

use uuid::Uuid;

use crate::{
    Error,
    blocks::Blocks,
    bytes::{crc, high, high_half, low, low_half, put_u16, put_u32},
    directory::{self, Entry, Identity},
    error::shown,
    extents::Extents,
    geometry::{BLOCK, DESCRIPTOR, Geometry, INODES_PER_GROUP},
    inode::{self, Contents, FileType, HOLDS_XATTR, IS_INDEXED, USES_EXTENTS},
    inode_table::InodeTables,
    journal, resize,
    superblock::{self, FIRST_INODE, JOURNAL_INODE, RESIZE_INODE, Superblock},
    tree::{Attributes, Kind, Node, NodeId, ROOT, Tree},
    values::Values,
    xattr::{Placed, Xattrs},
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

/// Writes everything and makes it last.
pub fn finish(
    mut blocks: Blocks,
    mut tree: Tree,
    geometry: Geometry,
    uuid: Uuid,
    journal: &Extents,
    resize_block: Option<u64>,
) -> Result<(), Error> {
    if tree.child(ROOT, LOST_AND_FOUND).is_none() {
        let kind = crate::tree::directory(ROOT);
        tree.insert(
            ROOT,
            LOST_AND_FOUND.into(),
            Attributes::of_mode(0o700),
            kind,
        );
    }
    let numbers = Numbers::new(&tree, geometry)?;
    let seed = superblock::checksum_seed(uuid);
    let journal_contents = write_journal(&mut blocks, journal, uuid, seed)?;
    let mut builder = Builder {
        tables: InodeTables::new(geometry),
        values: Values::after(numbers.last()),
        blocks: &mut blocks,
        tree: &tree,
        numbers: &numbers,
        seed,
        hash_seed: superblock::hash_seed(uuid),
    };
    let mut inodes = numbers.inodes();
    builder.root(&mut inodes)?;
    if let Some(block) = resize_block {
        let contents = resize::write(builder.blocks, geometry, block)?;
        builder.reserved_inode(RESIZE_INODE, &contents)?;
    }
    builder.reserved_inode(JOURNAL_INODE, &journal_contents)?;
    for (number, id) in inodes {
        builder.node(number, id)?;
    }
    let last_inode = builder.values(geometry)?;
    let has_xattr_inodes = last_inode > numbers.last();
    let groups = Groups::write(&mut blocks, &tree, &numbers, last_inode, geometry, seed)?;
    let superblock = Superblock {
        geometry,
        uuid,
        free_blocks: groups.free_blocks,
        free_inodes: geometry.inodes() - last_inode,
        has_xattr_inodes,
        journal: (&journal_contents.map, journal_contents.size),
    };
    write_superblocks(&mut blocks, &superblock, &groups.descriptors, geometry)?;
    blocks.finish()
}

/// Which node has which inode: lost+found the first that is free, the others as the tree is
/// walked.
struct Numbers {
    order: Vec<NodeId>,
    of_node: Vec<u32>,
}

impl Numbers {
    fn new(tree: &Tree, geometry: Geometry) -> Result<Numbers, Error> {
        let mut numbers = Numbers {
            order: Vec::new(),
            of_node: vec![0; tree.bound()],
        };
        numbers.of_node[ROOT as usize] = ROOT_INODE;
        if let Some(lost_and_found) = tree.child(ROOT, LOST_AND_FOUND) {
            numbers.add(lost_and_found);
        }
        let mut directories = vec![ROOT];
        while let Some(directory) = directories.pop() {
            let entries = tree.children(directory).into_iter().flatten();
            for child in entries.map(|(_, child)| child.node) {
                numbers.add(child);
                if tree.children(child).is_some() {
                    directories.push(child);
                }
            }
        }
        if u64::from(FIRST_INODE) + numbers.order.len() as u64 > u64::from(geometry.inodes()) {
            return Err(Error::NoInodes);
        }
        Ok(numbers)
    }

    fn add(&mut self, id: NodeId) {
        let number = &mut self.of_node[id as usize];
        if *number == 0 {
            *number = FIRST_INODE + self.order.len() as u32;
            self.order.push(id);
        }
    }

    fn of(&self, id: NodeId) -> u32 {
        self.of_node.get(id as usize).copied().unwrap_or_default()
    }

    fn last(&self) -> u32 {
        FIRST_INODE + self.order.len() as u32 - 1
    }

    /// Root and all others, in the order of their numbers.
    fn inodes(&self) -> impl Iterator<Item = (u32, NodeId)> {
        let others = (FIRST_INODE..).zip(self.order.iter().copied());
        std::iter::once((ROOT_INODE, ROOT)).chain(others)
    }
}

fn write_journal(
    blocks: &mut Blocks,
    extents: &Extents,
    uuid: Uuid,
    seed: u32,
) -> Result<Contents, Error> {
    let count = extents.count();
    if let Some(first) = extents.runs().next() {
        blocks.write(first.start, &journal::superblock(count as u32, uuid))?;
    }
    let (map, taken) = extents.write(blocks, inode::seed_of(JOURNAL_INODE, seed))?;
    Ok(Contents {
        size: count * BLOCK as u64,
        blocks: count + taken,
        map,
        flags: USES_EXTENTS,
        ..Contents::empty(FileType::FILE)
    })
}

struct Builder<'a> {
    blocks: &'a mut Blocks,
    tables: InodeTables,
    values: Values<'a>,
    tree: &'a Tree,
    numbers: &'a Numbers,
    seed: u32,
    hash_seed: [u32; 4],
}

impl<'a> Builder<'a> {
    /// The first of these, which has a number below all that are reserved.
    fn root(&mut self, inodes: &mut impl Iterator<Item = (u32, NodeId)>) -> Result<(), Error> {
        inodes
            .next()
            .map_or(Ok(()), |(number, id)| self.node(number, id))
    }

    /// Writes a node's own blocks and its inode.
    fn node(&mut self, number: u32, id: NodeId) -> Result<(), Error> {
        let Some(node) = self.tree.node(id) else {
            return Ok(());
        };
        let seed = inode::seed_of(number, self.seed);
        let mut contents = match &node.kind {
            Kind::Directory { parent, .. } => self.directory(number, id, *parent, seed)?,
            Kind::File { size, extents } => self.mapped(FileType::FILE, *size, extents, seed)?,
            Kind::Symlink(target) => self.symlink(target, seed)?,
            Kind::Special(special) => Contents {
                map: inode::device_map(*special),
                ..Contents::empty(FileType::of_special(*special))
            },
        };
        let xattrs = node.attributes.shared.xattrs.as_ref();
        let mut placed = xattrs.map(Xattrs::placed).unwrap_or_default();
        contents.blocks += placed.put_apart(|value| self.values.number(value, self.seed));
        if placed.needs_block() {
            let run = self.blocks.allocate(1)?;
            self.blocks
                .write(run.start, &placed.block(run.start, self.seed))?;
            contents.xattr_block = run.start;
            contents.blocks += 1;
        }
        let links = links(self.tree, node);
        let inode = inode::encode(&contents, &node.attributes, links, &placed, seed);
        self.tables.put(self.blocks, number, &inode)
    }

    /// Writes one of the inodes that no directory names.
    fn reserved_inode(&mut self, number: u32, contents: &Contents) -> Result<(), Error> {
        let seed = inode::seed_of(number, self.seed);
        let attributes = Attributes::of_mode(0o600);
        let inode = inode::encode(contents, &attributes, 1, &Placed::default(), seed);
        self.tables.put(self.blocks, number, &inode)
    }

    /// Writes the values that have inodes of their own, and what is left of the tables; returns
    /// the last inode.
    fn values(mut self, geometry: Geometry) -> Result<u32, Error> {
        let values = std::mem::replace(&mut self.values, Values::after(0));
        if u64::from(values.first) + values.all.len() as u64 > u64::from(geometry.inodes()) + 1 {
            return Err(Error::NoInodes);
        }
        let last = values.first + values.all.len() as u32 - 1;
        for (number, (value, shared)) in (values.first..).zip(values.all) {
            let extents = self.blocks.store(value)?;
            let seed = inode::seed_of(number, self.seed);
            let size = value.len() as u64;
            let mut contents = self.mapped(FileType::FILE, size, &extents, seed)?;
            contents.flags |= HOLDS_XATTR;
            contents.shared_value = Some(shared);
            self.reserved_inode(number, &contents)?;
        }
        self.tables.flush(self.blocks)?;
        Ok(last)
    }

    fn mapped(
        &mut self,
        file_type: FileType,
        size: u64,
        extents: &Extents,
        seed: u32,
    ) -> Result<Contents, Error> {
        let (map, taken) = extents.write(self.blocks, seed)?;
        Ok(Contents {
            size,
            blocks: extents.count() + taken,
            map,
            flags: USES_EXTENTS,
            ..Contents::empty(file_type)
        })
    }

    fn directory(
        &mut self,
        number: u32,
        id: NodeId,
        parent: NodeId,
        seed: u32,
    ) -> Result<Contents, Error> {
        let children = self.tree.children(id).into_iter().flatten();
        let entries: Vec<Entry<'_>> = children
            .map(|(name, child)| Entry {
                name,
                inode: self.numbers.of(child.node),
                kind: self
                    .tree
                    .node(child.node)
                    .map_or(FileType::FILE, file_type)
                    .kind,
            })
            .collect();
        let identity = Identity {
            inode: number,
            parent: self.numbers.of(parent),
            seed,
            hash_seed: &self.hash_seed,
        };
        let written = directory::write(self.blocks, identity, &entries)?;
        let written = written.ok_or_else(|| Error::DirectoryTooLarge {
            path: shown(&self.tree.path(id)),
        })?;
        let size = u64::from(written.blocks) * BLOCK as u64;
        let mut contents = self.mapped(FileType::DIRECTORY, size, &written.extents, seed)?;
        if written.is_indexed {
            contents.flags |= IS_INDEXED;
        }
        Ok(contents)
    }

    /// A target of up to 59 bytes is in the inode, a longer one in a block.
    fn symlink(&mut self, target: &[u8], seed: u32) -> Result<Contents, Error> {
        if target.len() < 60 {
            let mut contents = Contents::empty(FileType::SYMLINK);
            contents.size = target.len() as u64;
            contents.map[..target.len()].copy_from_slice(target);
            return Ok(contents);
        }
        let extents = self.blocks.store(target)?;
        self.mapped(FileType::SYMLINK, target.len() as u64, &extents, seed)
    }
}

fn file_type(node: &Node) -> FileType {
    match &node.kind {
        Kind::Directory { .. } => FileType::DIRECTORY,
        Kind::File { .. } => FileType::FILE,
        Kind::Symlink(_) => FileType::SYMLINK,
        Kind::Special(special) => FileType::of_special(*special),
    }
}

/// A directory is named by its entry, by itself, and by each directory in it.
fn links(tree: &Tree, node: &Node) -> u16 {
    let Kind::Directory { children, .. } = &node.kind else {
        return node.links as u16;
    };
    let directories = children
        .values()
        .filter(|child| tree.children(child.node).is_some());
    match 2 + directories.count() as u32 {
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
        tree: &Tree,
        numbers: &Numbers,
        last_inode: u32,
        geometry: Geometry,
        seed: u32,
    ) -> Result<Groups, Error> {
        let mut directories = vec![0u32; geometry.groups() as usize];
        for (number, id) in numbers.inodes() {
            if tree.children(id).is_some() {
                directories[((number - 1) / INODES_PER_GROUP) as usize] += 1;
            }
        }
        let mut groups = Groups {
            descriptors: vec![0; geometry.descriptor_blocks() as usize * BLOCK],
            free_blocks: 0,
        };
        for group in 0..geometry.groups() {
            let before = u64::from(group) * u64::from(INODES_PER_GROUP);
            let used = u64::from(last_inode)
                .saturating_sub(before)
                .min(u64::from(INODES_PER_GROUP)) as u32;
            let at = group as usize * DESCRIPTOR;
            let descriptor = Self::write_group(
                blocks,
                geometry,
                group,
                used,
                directories[group as usize],
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
        let block_bitmap = blocks.bitmap(group);
        let mut block_checksum = 0;
        let is_last = group + 1 == geometry.groups();
        if blocks.is_touched(group) || is_last {
            block_checksum = crc(seed, block_bitmap.bytes());
            blocks.write(geometry.block_bitmap(group), block_bitmap.bytes())?;
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
        let free_blocks = block_bitmap.free();
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
