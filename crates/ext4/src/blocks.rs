//! The image file: block allocation, the block bitmaps, and buffered writes.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt};

use rustix::fs::{FallocateFlags, fallocate};

use crate::{
    WriteError,
    geometry::{BLOCK, BLOCKS_PER_GROUP, Geometry},
};

/// Size of the write buffer in bytes.
const BUFFER_SIZE: usize = 1 << 20;

/// Contiguous blocks of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Number of the first block.
    pub start: u64,
    /// Number of blocks.
    pub count: u32,
}

/// Image file with an allocator that only moves forward and skips each group's metadata. Freed
/// blocks are not allocated again: their place in the file becomes a hole.
#[derive(Debug)]
pub(crate) struct Blocks {
    file: File,
    geometry: Geometry,
    next: u64,
    /// Freed blocks by group: a set bit is a freed block.
    freed: BTreeMap<u32, Bitmap>,
    /// Bytes to be written at `buffer_offset`.
    buffer: Vec<u8>,
    buffer_offset: u64,
}

impl Blocks {
    /// Sets the size of an empty file to that of the file system.
    pub(crate) fn new(file: File, geometry: Geometry) -> Result<Blocks, WriteError> {
        file.set_len(geometry.bytes()).map_err(WriteError::Io)?;
        Ok(Blocks {
            file,
            geometry,
            next: u64::from(geometry.overhead(0)),
            freed: BTreeMap::new(),
            buffer: Vec::with_capacity(BUFFER_SIZE),
            buffer_offset: 0,
        })
    }

    /// Allocates at least one and at most `max` contiguous blocks.
    pub(crate) fn allocate(&mut self, max: u32) -> Result<Run, WriteError> {
        if self.next >= self.geometry.blocks() {
            return Err(WriteError::Full);
        }
        let start = self.next;
        let within = (start % u64::from(BLOCKS_PER_GROUP)) as u32;
        let count = max.clamp(1, BLOCKS_PER_GROUP - within);
        self.next += u64::from(count);
        if self.next.is_multiple_of(u64::from(BLOCKS_PER_GROUP)) {
            let group = (self.next / u64::from(BLOCKS_PER_GROUP)) as u32;
            self.next += u64::from(self.geometry.overhead(group));
        }
        Ok(Run { start, count })
    }

    /// Allocates and writes one block; returns its number.
    pub(crate) fn append(&mut self, block: &[u8]) -> Result<u64, WriteError> {
        let run = self.allocate(1)?;
        self.write(run.start, block)?;
        Ok(run.start)
    }

    /// Reads blocks that were written before.
    pub(crate) fn read(&mut self, run: Run) -> Result<Vec<u8>, WriteError> {
        self.flush()?;
        let mut bytes = vec![0; run.count as usize * BLOCK];
        let read = self
            .file
            .read_exact_at(&mut bytes, run.start * BLOCK as u64);
        read.map_err(WriteError::Io)?;
        Ok(bytes)
    }

    /// Writes whole blocks, starting with block `at`. Small writes are buffered as long as they are
    /// contiguous.
    pub(crate) fn write(&mut self, at: u64, blocks: &[u8]) -> Result<(), WriteError> {
        let offset = at * BLOCK as u64;
        if blocks.len() >= BUFFER_SIZE / 2 {
            self.flush()?;
            return self.write_unbuffered(at, blocks);
        }
        let is_contiguous = offset == self.buffer_offset + self.buffer.len() as u64;
        if !is_contiguous || self.buffer.len() + blocks.len() > BUFFER_SIZE {
            self.flush()?;
            self.buffer_offset = offset;
        }
        self.buffer.extend_from_slice(blocks);
        Ok(())
    }

    /// Writes whole blocks, none of which may be in the buffer.
    pub(crate) fn write_unbuffered(&self, at: u64, blocks: &[u8]) -> Result<(), WriteError> {
        let offset = at * BLOCK as u64;
        self.file
            .write_all_at(blocks, offset)
            .map_err(WriteError::Io)
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        self.file
            .write_all_at(&self.buffer, self.buffer_offset)
            .map_err(WriteError::Io)?;
        self.buffer.clear();
        Ok(())
    }

    /// Frees blocks and discards their contents.
    pub(crate) fn free(&mut self, run: Run) -> Result<(), WriteError> {
        self.flush()?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (offset, length) = (
            run.start * BLOCK as u64,
            u64::from(run.count) * BLOCK as u64,
        );
        match fallocate(&self.file, flags, offset, length) {
            // A host file system without holes keeps the bytes, in blocks that are not in use.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(WriteError::Io(error.into())),
        }
        let group = (run.start / u64::from(BLOCKS_PER_GROUP)) as u32;
        let freed = self.freed.entry(group).or_insert_with(Bitmap::new);
        let within = (run.start - self.geometry.start(group)) as u32;
        freed.set(within, run.count);
        Ok(())
    }

    /// Returns the block bitmap of a group.
    pub(crate) fn bitmap(&self, group: u32) -> Bitmap {
        let start = self.geometry.start(group);
        let overhead = self.geometry.overhead(group);
        let used = self
            .next
            .saturating_sub(start)
            .min(u64::from(BLOCKS_PER_GROUP)) as u32;
        let mut bitmap = Bitmap::new();
        bitmap.set(0, overhead.max(used));
        if let Some(freed) = self.freed.get(&group) {
            for (byte, freed) in bitmap.bytes.iter_mut().zip(freed.bytes()) {
                *byte &= !freed;
            }
        }
        bitmap
    }

    /// Returns whether any block of the group was ever allocated, apart from its metadata.
    pub(crate) fn is_touched(&self, group: u32) -> bool {
        self.next > self.geometry.start(group) + u64::from(self.geometry.overhead(group))
    }

    /// Writes the buffer and syncs the file.
    pub(crate) fn finish(mut self) -> Result<(), WriteError> {
        self.flush()?;
        self.file.sync_all().map_err(WriteError::Io)
    }
}

/// Bitmap with a bit for each block of a group.
#[derive(Debug)]
pub(crate) struct Bitmap {
    bytes: Box<[u8; BLOCK]>,
}

impl Bitmap {
    fn new() -> Bitmap {
        Bitmap {
            bytes: Box::new([0; BLOCK]),
        }
    }

    fn set(&mut self, from: u32, count: u32) {
        for bit in from..from + count {
            self.bytes[(bit / 8) as usize] |= 1 << (bit % 8);
        }
    }

    /// Returns the bitmap as it is on disk.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..]
    }

    /// Returns the number of blocks not in use.
    pub(crate) fn free(&self) -> u32 {
        BLOCKS_PER_GROUP - self.bytes.iter().map(|byte| byte.count_ones()).sum::<u32>()
    }
}
