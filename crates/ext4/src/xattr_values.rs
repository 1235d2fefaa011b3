//! Values of extended attributes that have inodes of their own (feature `ea_inode`). Equal values
//! share one inode.

use std::{collections::HashMap, path::PathBuf};

use crate::{
    WriteError,
    blocks::Blocks,
    bytes::{crc, get_u32, put_u32},
    extents::{ExtentRange, Extents},
    pages::{Record, Table},
};

/// Pages of values in memory: 512 KiB.
const PAGES_IN_MEMORY: usize = 128;

/// Number of values that are remembered, so that equal ones are stored once.
const MAX_CACHED: usize = 1 << 16;

/// Number of a value.
pub(crate) type ValueId = u32;

/// Value of an extended attribute, whose bytes are in the image.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct XattrValue {
    /// Checksum of the bytes.
    pub hash: u32,
    /// Number of bytes.
    pub size: u32,
    /// Blocks with the bytes.
    pub stored: ExtentRange,
    /// Number of attributes with this value; counted at the end.
    pub references: u32,
    /// Inode number; 0 until one is assigned at the end.
    pub inode: u32,
}

impl Record for XattrValue {
    const SIZE: usize = 24;

    fn write(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.hash);
        put_u32(bytes, 4, self.size);
        self.stored.write(&mut bytes[8..16]);
        put_u32(bytes, 16, self.references);
        put_u32(bytes, 20, self.inode);
    }

    fn read(bytes: &[u8]) -> XattrValue {
        XattrValue {
            hash: get_u32(bytes, 0),
            size: get_u32(bytes, 4),
            stored: ExtentRange::read(&bytes[8..16]),
            references: get_u32(bytes, 16),
            inode: get_u32(bytes, 20),
        }
    }
}

/// All values that have inodes of their own.
#[derive(Debug)]
pub(crate) struct XattrValues {
    /// Values by number.
    pub table: Table<XattrValue>,
    /// Newest value of each hash and size.
    cached: HashMap<(u32, u32), ValueId>,
    seed: u32,
}

impl XattrValues {
    /// Creates an empty table. Pages that exceed the memory limit are swapped to a temporary file
    /// in `directory`. `seed` is the file system's checksum seed.
    pub(crate) fn new(directory: PathBuf, seed: u32) -> XattrValues {
        XattrValues {
            table: Table::new(directory, PAGES_IN_MEMORY),
            cached: HashMap::new(),
            seed,
        }
    }

    /// Stores a value in the image, unless an equal one was stored recently.
    pub(crate) fn store(
        &mut self,
        value: &[u8],
        blocks: &mut Blocks,
        extents: &mut Extents,
    ) -> Result<ValueId, WriteError> {
        let (hash, size) = (crc(self.seed, value), value.len() as u32);
        if let Some(id) = self.cached.get(&(hash, size)) {
            let cached = self.table.get(*id)?;
            let mut bytes = Vec::new();
            for run in extents.runs(cached.stored) {
                bytes.extend(blocks.read(run?)?);
            }
            // Two values may have the same hash and size. The last block is padded with zeroes.
            if bytes.starts_with(value) {
                return Ok(*id);
            }
        }
        let id = self.table.push(&XattrValue {
            hash,
            size,
            stored: extents.store(value, blocks)?,
            ..XattrValue::default()
        })?;
        if self.cached.len() == MAX_CACHED {
            self.cached.clear();
        }
        self.cached.insert((hash, size), id);
        Ok(id)
    }
}
