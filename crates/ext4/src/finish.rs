//! Last step of the writer: everything that depends on the complete tree. In this order: inode
//! numbers; directories, extent trees and inodes; bitmaps and group descriptors; superblocks.

use uuid::Uuid;

use crate::{
    WriteError,
    blocks::Blocks,
    directory::{self, DirectoryInode},
    error::shown,
    extents::{ExtentMap, ExtentRange, Extents},
    geometry::{BLOCK, Geometry, INODES_PER_GROUP},
    groups::Groups,
    inode::{self, FileType, InodeContents},
    inode_table::InodeTables,
    journal,
    layout::{
        EXT4_EA_INODE_FL, EXT4_EXTENTS_FL, EXT4_GOOD_OLD_FIRST_INO, EXT4_INDEX_FL,
        EXT4_JOURNAL_INO, EXT4_LINK_MAX, EXT4_RESIZE_INO, EXT4_ROOT_INO, I_BLOCK_SIZE,
    },
    node::{NodeId, NodeKind, ROOT, SharedAttributes},
    pages::HeapSlice,
    resize,
    superblock::{self, Superblock},
    time::InodeTime,
    tree::Tree,
    xattr::XattrPlacement,
    xattr_values::XattrValues,
};

const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Everything that the writer has collected.
#[derive(Debug)]
pub(crate) struct WriterState {
    /// Image file and block allocator.
    pub blocks: Blocks,
    /// Extents of all files.
    pub extents: Extents,
    /// Names and nodes.
    pub tree: Tree,
    /// Values of extended attributes that have inodes of their own.
    pub values: XattrValues,
    /// Size and block groups.
    pub geometry: Geometry,
    /// UUID of the file system.
    pub uuid: Uuid,
    /// Blocks of the journal.
    pub journal: ExtentRange,
    /// Double indirect block of the resize inode; absent if no blocks are reserved for growth.
    pub resize_block: Option<u64>,
}

/// Writes all metadata and syncs the image file.
pub(crate) fn finish(mut state: WriterState) -> Result<(), WriteError> {
    let numbers = InodeNumbers::assign(&mut state)?;
    let (geometry, uuid) = (state.geometry, state.uuid);
    let (mut blocks, journal) = InodeWriter::new(state).write_all(&numbers)?;
    let seed = superblock::checksum_seed(uuid);
    let groups = Groups::write(
        &mut blocks,
        numbers.last,
        &numbers.directories,
        geometry,
        seed,
    )?;
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

/// Assigned inode numbers: `lost+found` has the first that is not reserved, as with mke2fs; the
/// nodes follow in the order of their ids, then the values of extended attributes.
struct InodeNumbers {
    last: u32,
    lost_and_found: Option<NodeId>,
    has_values: bool,
    /// Number of directories in each group.
    directories: Vec<u32>,
}

impl InodeNumbers {
    fn assign(state: &mut WriterState) -> Result<InodeNumbers, WriteError> {
        let tree = &mut state.tree;
        if tree.child(ROOT, LOST_AND_FOUND)?.is_none() {
            let shared = SharedAttributes::with_mode(0o700);
            let attributes = tree.store_attributes(InodeTime::EPOCH, &shared)?;
            let kind = NodeKind::empty_directory(ROOT);
            tree.insert(ROOT, LOST_AND_FOUND, attributes, kind)?;
        }
        let mut numbers = InodeNumbers {
            last: EXT4_GOOD_OLD_FIRST_INO - 1,
            lost_and_found: tree.child(ROOT, LOST_AND_FOUND)?,
            has_values: false,
            directories: vec![0; state.geometry.groups() as usize],
        };
        numbers.set_node(state, ROOT, EXT4_ROOT_INO)?;
        for id in numbers
            .lost_and_found
            .into_iter()
            .chain(ROOT + 1..state.tree.node_bound())
        {
            let node = state.tree.node(id)?;
            if node.inode == 0 && !matches!(node.kind, NodeKind::Removed) {
                let next = numbers.next(state.geometry)?;
                numbers.set_node(state, id, next)?;
            }
        }
        numbers.assign_values(state)?;
        Ok(numbers)
    }

    fn next(&mut self, geometry: Geometry) -> Result<u32, WriteError> {
        if self.last == geometry.inodes() {
            return Err(WriteError::NoInodes);
        }
        self.last += 1;
        Ok(self.last)
    }

    fn set_node(
        &mut self,
        state: &mut WriterState,
        id: NodeId,
        inode: u32,
    ) -> Result<(), WriteError> {
        let WriterState { tree, values, .. } = state;
        let node = tree.set_inode(id, inode)?;
        if let NodeKind::Directory { .. } = node.kind {
            self.directories[((inode - 1) / INODES_PER_GROUP) as usize] += 1;
        }
        if values.table.length() > 0 {
            for id in tree.shared_attributes(node.attributes)?.xattrs.value_ids() {
                let mut value = values.table.get(id)?;
                value.references += 1;
                values.table.set(id, &value)?;
            }
        }
        Ok(())
    }

    /// Assigns inodes to the values that a node uses, and frees the blocks of the others.
    fn assign_values(&mut self, state: &mut WriterState) -> Result<(), WriteError> {
        for id in 0..state.values.table.length() {
            let mut value = state.values.table.get(id)?;
            if value.references == 0 {
                state.extents.free(value.stored, &mut state.blocks)?;
                continue;
            }
            self.has_values = true;
            value.inode = self.next(state.geometry)?;
            state.values.table.set(id, &value)?;
        }
        Ok(())
    }
}

/// Writes inodes with their directories, extent trees and blocks of extended attributes.
struct InodeWriter {
    state: WriterState,
    tables: InodeTables,
    seed: u32,
}

impl InodeWriter {
    fn new(state: WriterState) -> InodeWriter {
        InodeWriter {
            tables: InodeTables::new(state.geometry),
            seed: superblock::checksum_seed(state.uuid),
            state,
        }
    }

    /// Writes all inodes in the order of their numbers, which [`InodeTables`] requires. Returns the
    /// image and the journal's inode.
    fn write_all(mut self, numbers: &InodeNumbers) -> Result<(Blocks, InodeContents), WriteError> {
        self.write_node(ROOT)?;
        if let Some(block) = self.state.resize_block {
            let contents = resize::write(&mut self.state.blocks, self.state.geometry, block)?;
            self.write_reserved(EXT4_RESIZE_INO, &contents)?;
        }
        let journal = self.write_journal()?;
        self.write_reserved(EXT4_JOURNAL_INO, &journal)?;
        if let Some(id) = numbers.lost_and_found {
            self.write_node(id)?;
        }
        for id in ROOT + 1..self.state.tree.node_bound() {
            if Some(id) != numbers.lost_and_found {
                self.write_node(id)?;
            }
        }
        self.write_values()?;
        self.tables.flush(&self.state.blocks)?;
        Ok((self.state.blocks, journal))
    }

    fn write_journal(&mut self) -> Result<InodeContents, WriteError> {
        let stored = self.state.journal;
        let mut count = 0;
        let mut first = None;
        for run in self.state.extents.runs(stored) {
            let run = run?;
            count += run.count;
            first.get_or_insert(run.start);
        }
        if let Some(first) = first {
            let superblock = journal::superblock(count, self.state.uuid);
            self.state.blocks.write(first, &superblock)?;
        }
        let seed = inode::checksum_seed(EXT4_JOURNAL_INO, self.seed);
        let size = u64::from(count) * BLOCK as u64;
        self.mapped(FileType::FILE, size, stored, seed)
    }

    fn write_node(&mut self, id: NodeId) -> Result<(), WriteError> {
        let node = self.state.tree.node(id)?;
        let seed = inode::checksum_seed(node.inode, self.seed);
        let mut links = node.links;
        let mut contents = match node.kind {
            NodeKind::Removed => return Ok(()),
            NodeKind::Directory {
                parent,
                directories,
                ..
            } => {
                links = directory_links(directories);
                self.directory(id, node.inode, parent, seed)?
            }
            NodeKind::File { size, stored } => self.mapped(FileType::FILE, size, stored, seed)?,
            NodeKind::Symlink(target) => self.symlink(target, seed)?,
            NodeKind::Special(special) => InodeContents {
                map: inode::device_map(special),
                ..InodeContents::empty(FileType::from_special(special))
            },
        };
        let values = &mut self.state.values;
        let shared = self.state.tree.shared_attributes(node.attributes)?;
        let xattrs = shared.xattrs.place(|id| {
            let value = values.table.get(id)?;
            Ok::<_, WriteError>((value.inode, value.hash))
        })?;
        // Linux charges the blocks of a value to each inode that uses it.
        contents.blocks += xattrs.value_blocks;
        if xattrs.needs_block() {
            let run = self.state.blocks.allocate(1)?;
            let block = xattrs.encode_block(run.start, self.seed);
            self.state.blocks.write(run.start, &block)?;
            contents.xattr_block = run.start;
            contents.blocks += 1;
        }
        let mtime = node.attributes.mtime;
        let inode = inode::encode(&contents, mtime, &shared, links, &xattrs, seed);
        self.tables.put(&self.state.blocks, node.inode, &inode)
    }

    /// Writes an inode that has no name in any directory.
    fn write_reserved(&mut self, number: u32, contents: &InodeContents) -> Result<(), WriteError> {
        let seed = inode::checksum_seed(number, self.seed);
        let shared = SharedAttributes::with_mode(0o600);
        let xattrs = XattrPlacement::default();
        let inode = inode::encode(contents, InodeTime::EPOCH, &shared, 1, &xattrs, seed);
        self.tables.put(&self.state.blocks, number, &inode)
    }

    fn write_values(&mut self) -> Result<(), WriteError> {
        for id in 0..self.state.values.table.length() {
            let value = self.state.values.table.get(id)?;
            if value.references == 0 {
                continue;
            }
            let seed = inode::checksum_seed(value.inode, self.seed);
            let size = u64::from(value.size);
            let mut contents = self.mapped(FileType::FILE, size, value.stored, seed)?;
            contents.flags |= EXT4_EA_INODE_FL;
            contents.xattr_value = Some(value);
            self.write_reserved(value.inode, &contents)?;
        }
        Ok(())
    }

    /// Returns an inode with an extent tree of these blocks, after writing the tree's own blocks.
    fn mapped(
        &mut self,
        file_type: FileType,
        size: u64,
        stored: ExtentRange,
        seed: u32,
    ) -> Result<InodeContents, WriteError> {
        let extents = &mut self.state.extents;
        let ExtentMap { root, blocks } = extents.write_map(stored, &mut self.state.blocks, seed)?;
        Ok(InodeContents {
            size,
            blocks,
            map: root,
            flags: EXT4_EXTENTS_FL,
            ..InodeContents::empty(file_type)
        })
    }

    fn directory(
        &mut self,
        id: NodeId,
        inode: u32,
        parent: NodeId,
        seed: u32,
    ) -> Result<InodeContents, WriteError> {
        let tree = &mut self.state.tree;
        let directory = DirectoryInode {
            id,
            inode,
            parent: tree.node(parent)?.inode,
            seed,
        };
        let (blocks, extents) = (&mut self.state.blocks, &mut self.state.extents);
        let Some(written) = directory::write(blocks, extents, tree, directory)? else {
            return Err(WriteError::DirectoryTooLarge {
                path: shown(&tree.path(id)?),
            });
        };
        let size = u64::from(written.blocks) * BLOCK as u64;
        let mut contents = self.mapped(FileType::DIRECTORY, size, written.stored, seed)?;
        if written.is_indexed {
            contents.flags |= EXT4_INDEX_FL;
        }
        Ok(contents)
    }

    /// Returns a symlink's inode. A target of up to 59 bytes is in `i_block`, a longer one in a
    /// block.
    fn symlink(&mut self, target: HeapSlice, seed: u32) -> Result<InodeContents, WriteError> {
        let target = self.state.tree.bytes(target)?;
        if target.len() < I_BLOCK_SIZE {
            let mut contents = InodeContents::empty(FileType::SYMLINK);
            contents.size = target.len() as u64;
            contents.map[..target.len()].copy_from_slice(&target);
            return Ok(contents);
        }
        let stored = self.state.extents.store(&target, &mut self.state.blocks)?;
        self.mapped(FileType::SYMLINK, target.len() as u64, stored, seed)
    }
}

/// Returns a directory's link count: its entry, its `.`, and the `..` of each directory in it.
fn directory_links(directories: u32) -> u16 {
    match 2 + directories {
        links if links > u32::from(EXT4_LINK_MAX) => 1,
        links => links as u16,
    }
}

/// Writes superblock and descriptors, and their copies.
fn write_superblocks(
    blocks: &mut Blocks,
    superblock: &Superblock<'_>,
    descriptors: &[u8],
    geometry: Geometry,
) -> Result<(), WriteError> {
    for group in geometry.groups_with_superblock() {
        let mut block = vec![0; BLOCK];
        // The first 1024 bytes of the image are for a boot loader; the copies have no such gap.
        let at = if group == 0 { superblock::SIZE } else { 0 };
        block[at..at + superblock::SIZE].copy_from_slice(&superblock.encode(group));
        blocks.write(geometry.start(group), &block)?;
        blocks.write(geometry.start(group) + 1, descriptors)?;
    }
    Ok(())
}
