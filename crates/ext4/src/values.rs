//! Values of extended attributes that have inodes of their own.

use std::{collections::HashMap, path::PathBuf};

use crate::{
    Error,
    blocks::Blocks,
    bytes::{crc, get_u32, put_u32},
    extents::{Extents, Span},
    pages::{Record, Table},
};

/// Pages of values in memory: 512 KiB.
const IN_MEMORY: usize = 128;

/// So many values are known at once, to be found when they come again.
const MOST_KNOWN: usize = 1 << 16;

/// A value's number.
pub type ValueId = u32;

/// What is known of a value. Its bytes are on the disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct SharedValue {
    /// Over its bytes.
    pub hash: u32,
    /// How many they are.
    pub size: u32,
    /// Where they are.
    pub stored: Span,
    /// How many attributes have it, counted at the end.
    pub references: u32,
    /// Its inode, known at the end.
    pub inode: u32,
}

impl Record for SharedValue {
    const SIZE: usize = 24;

    fn write(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.hash);
        put_u32(bytes, 4, self.size);
        self.stored.write(&mut bytes[8..16]);
        put_u32(bytes, 16, self.references);
        put_u32(bytes, 20, self.inode);
    }

    fn read(bytes: &[u8]) -> SharedValue {
        SharedValue {
            hash: get_u32(bytes, 0),
            size: get_u32(bytes, 4),
            stored: Span::read(&bytes[8..16]),
            references: get_u32(bytes, 16),
            inode: get_u32(bytes, 20),
        }
    }
}

/// All such values.
#[derive(Debug)]
pub struct Values {
    /// By number.
    pub all: Table<SharedValue>,
    /// Those with this hash and size that came last.
    known: HashMap<(u32, u32), ValueId>,
    seed: u32,
}

impl Values {
    /// None yet; what has no room in memory will be in this directory. `seed` is the file
    /// system's checksum seed.
    pub fn new(directory: PathBuf, seed: u32) -> Values {
        Values {
            all: Table::new(directory, IN_MEMORY),
            known: HashMap::new(),
            seed,
        }
    }

    /// Writes a value to the disk, or finds the one that is there already.
    pub fn keep(
        &mut self,
        value: &[u8],
        blocks: &mut Blocks,
        extents: &mut Extents,
    ) -> Result<ValueId, Error> {
        let (hash, size) = (crc(self.seed, value), value.len() as u32);
        if let Some(id) = self.known.get(&(hash, size)) {
            let known = self.all.get(*id)?;
            let mut bytes = Vec::new();
            for run in extents.runs(known.stored) {
                bytes.extend(blocks.read(run?)?);
            }
            if bytes.starts_with(value) {
                return Ok(*id);
            }
        }
        let id = self.all.push(&SharedValue {
            hash,
            size,
            stored: blocks.store(value, extents)?,
            ..SharedValue::default()
        })?;
        if self.known.len() == MOST_KNOWN {
            self.known.clear();
        }
        self.known.insert((hash, size), id);
        Ok(id)
    }
}
