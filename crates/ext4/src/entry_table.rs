//! Hash table of all names in directories.

use std::{mem, path::PathBuf};

use crate::{
    WriteError,
    hash::name_hash,
    node::{EntryId, EntryRecord, NO_ENTRY, NodeId, ROOT},
    pages::{Heap, HeapSlice, Table},
};

/// Initial number of hash buckets, the factor by which it grows, and its maximum: 16 MiB.
pub(crate) const BUCKETS: usize = 1 << 16;
const BUCKETS_GROWTH: usize = 8;
const MAX_BUCKETS: usize = 1 << 22;

/// All entries, found by directory and name. The names themselves are in a [`Heap`].
#[derive(Debug)]
pub(crate) struct EntryTable {
    entries: Table<EntryRecord>,
    /// Newest entry of each bucket. Directory and name hash determine an entry's bucket.
    buckets: Vec<EntryId>,
    hash_seed: [u32; 4],
}

/// Result of [`EntryTable::find`].
pub(crate) enum EntryLookup {
    /// The entry exists; its node may have been removed.
    Found(EntryId, EntryRecord),
    /// The name never was in the directory.
    Missing {
        /// Hash of the name.
        hash: u32,
    },
}

impl EntryTable {
    /// Creates an empty table. Entries that exceed `pages` in memory are swapped to a temporary
    /// file in `directory`. `hash_seed` is `s_hash_seed`.
    pub(crate) fn new(
        directory: PathBuf,
        pages: usize,
        hash_seed: [u32; 4],
    ) -> Result<EntryTable, WriteError> {
        let mut entries = Table::new(directory, pages);
        // Occupies number 0, so that no entry has the number NO_ENTRY.
        entries.push(&EntryRecord {
            directory: ROOT,
            name: HeapSlice::EMPTY,
            hash: 0,
            node: None,
            layer: 0,
            next_in_bucket: NO_ENTRY,
            next_in_directory: NO_ENTRY,
        })?;
        Ok(EntryTable {
            entries,
            buckets: vec![NO_ENTRY; BUCKETS],
            hash_seed,
        })
    }

    /// Returns the entry with this number.
    pub(crate) fn get(&mut self, id: EntryId) -> Result<EntryRecord, WriteError> {
        self.entries.get(id)
    }

    /// Replaces an entry. Directory, hash and bucket must stay the same.
    pub(crate) fn set(&mut self, id: EntryId, entry: &EntryRecord) -> Result<(), WriteError> {
        self.entries.set(id, entry)
    }

    /// Finds the entry of a name in a directory. `names` contains the names of all entries.
    pub(crate) fn find(
        &mut self,
        directory: NodeId,
        name: &[u8],
        names: &mut Heap,
    ) -> Result<EntryLookup, WriteError> {
        let hash = name_hash(name, &self.hash_seed);
        let mut id = self.buckets[bucket(self.buckets.len(), directory, hash)];
        while id != NO_ENTRY {
            let entry = self.entries.get(id)?;
            if entry.hash == hash
                && entry.directory == directory
                && names.equals(entry.name, name)?
            {
                return Ok(EntryLookup::Found(id, entry));
            }
            id = entry.next_in_bucket;
        }
        Ok(EntryLookup::Missing { hash })
    }

    /// Adds an entry that [`find`](Self::find) has not found, and returns its number.
    pub(crate) fn push(&mut self, mut entry: EntryRecord) -> Result<EntryId, WriteError> {
        let bucket = bucket(self.buckets.len(), entry.directory, entry.hash);
        entry.next_in_bucket = self.buckets[bucket];
        let id = self.entries.push(&entry)?;
        self.buckets[bucket] = id;
        if self.entries.length() as usize > self.buckets.len() / 2 {
            self.grow_buckets()?;
        }
        Ok(id)
    }

    /// Increases the number of buckets, up to the maximum, and distributes all entries again.
    fn grow_buckets(&mut self) -> Result<(), WriteError> {
        let count = self.buckets.len() * BUCKETS_GROWTH;
        if count > MAX_BUCKETS {
            return Ok(());
        }
        self.buckets = vec![NO_ENTRY; count];
        for id in NO_ENTRY + 1..self.entries.length() {
            let mut entry = self.entries.get(id)?;
            let first = &mut self.buckets[bucket(count, entry.directory, entry.hash)];
            entry.next_in_bucket = mem::replace(first, id);
            self.entries.set(id, &entry)?;
        }
        Ok(())
    }
}

/// Returns the bucket of a name in a directory. `count` is a power of two.
fn bucket(count: usize, directory: NodeId, hash: u32) -> usize {
    let key = (u64::from(directory) << 32) | u64::from(hash);
    // Fibonacci hashing: the constant is 2^64 divided by the golden ratio.
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize & (count - 1)
}
