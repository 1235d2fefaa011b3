//! Blocks of the image: which are taken, and what is written to them.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt};

use rustix::fs::{FallocateFlags, fallocate};

use crate::{
    Error,
    extents::{Extents, Run, Span},
    geometry::{BLOCK, BLOCKS_PER_GROUP, Geometry},
};

/// Bytes gathered before they are written.
const GATHERED: usize = 1 << 20;

/// The image's file with an allocator that only ever goes forward, past every group's overhead.
#[derive(Debug)]
pub struct Blocks {
    file: File,
    geometry: Geometry,
    next: u64,
    /// What was given back, by group: a set bit is such a block.
    freed: BTreeMap<u32, Bitmap>,
    gathered: Vec<u8>,
    gathered_at: u64,
}

impl Blocks {
    /// Takes an empty file.
    pub fn new(file: File, geometry: Geometry) -> Result<Blocks, Error> {
        file.set_len(geometry.bytes()).map_err(Error::Io)?;
        Ok(Blocks {
            file,
            geometry,
            next: u64::from(geometry.overhead(0)),
            freed: BTreeMap::new(),
            gathered: Vec::with_capacity(GATHERED),
            gathered_at: 0,
        })
    }

    /// Takes up to `most` blocks that lie one behind the other: at least one.
    pub fn allocate(&mut self, most: u32) -> Result<Run, Error> {
        if self.next >= self.geometry.blocks() {
            return Err(Error::Full);
        }
        let start = self.next;
        let within = (start % u64::from(BLOCKS_PER_GROUP)) as u32;
        let count = most.clamp(1, BLOCKS_PER_GROUP - within);
        self.next += u64::from(count);
        if self.next.is_multiple_of(u64::from(BLOCKS_PER_GROUP)) {
            let group = (self.next / u64::from(BLOCKS_PER_GROUP)) as u32;
            self.next += u64::from(self.geometry.overhead(group));
        }
        Ok(Run { start, count })
    }

    /// Takes one block and writes it.
    pub fn append(&mut self, block: &[u8]) -> Result<u64, Error> {
        let run = self.allocate(1)?;
        self.write(run.start, block)?;
        Ok(run.start)
    }

    /// Takes as many blocks as these bytes need and writes them.
    pub fn store(&mut self, bytes: &[u8], extents: &mut Extents) -> Result<Span, Error> {
        let mut stored = extents.begin();
        for (logical, part) in (0..).zip(bytes.chunks(BLOCK)) {
            let mut block = [0; BLOCK];
            block[..part.len()].copy_from_slice(part);
            let start = self.append(&block)?;
            extents.push(&mut stored, logical, Run { start, count: 1 })?;
        }
        Ok(stored)
    }

    /// Reads blocks that were written.
    pub fn read(&mut self, run: Run) -> Result<Vec<u8>, Error> {
        self.flush()?;
        let mut bytes = vec![0; run.count as usize * BLOCK];
        let read = self
            .file
            .read_exact_at(&mut bytes, run.start * BLOCK as u64);
        read.map_err(Error::Io)?;
        Ok(bytes)
    }

    /// Writes whole blocks from block `at` on.
    pub fn write(&mut self, at: u64, blocks: &[u8]) -> Result<(), Error> {
        let offset = at * BLOCK as u64;
        if blocks.len() >= GATHERED / 2 {
            self.flush()?;
            return self.write_now(at, blocks);
        }
        let is_next = offset == self.gathered_at + self.gathered.len() as u64;
        if !is_next || self.gathered.len() + blocks.len() > GATHERED {
            self.flush()?;
            self.gathered_at = offset;
        }
        self.gathered.extend_from_slice(blocks);
        Ok(())
    }

    /// Writes whole blocks that are apart from what is gathered.
    pub fn write_now(&self, at: u64, blocks: &[u8]) -> Result<(), Error> {
        let offset = at * BLOCK as u64;
        self.file.write_all_at(blocks, offset).map_err(Error::Io)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.file
            .write_all_at(&self.gathered, self.gathered_at)
            .map_err(Error::Io)?;
        self.gathered.clear();
        Ok(())
    }

    /// Gives blocks back; what was written to them is gone.
    pub fn free(&mut self, run: Run) -> Result<(), Error> {
        self.flush()?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (offset, length) = (
            run.start * BLOCK as u64,
            u64::from(run.count) * BLOCK as u64,
        );
        match fallocate(&self.file, flags, offset, length) {
            // Where the host's file system cannot punch holes the bytes stay, unused.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(Error::Io(error.into())),
        }
        let group = (run.start / u64::from(BLOCKS_PER_GROUP)) as u32;
        let freed = self.freed.entry(group).or_insert_with(Bitmap::new);
        let within = (run.start - self.geometry.start(group)) as u32;
        freed.set(within, run.count);
        Ok(())
    }

    /// A bitmap of the group's blocks: a set bit is a block in use.
    pub fn bitmap(&self, group: u32) -> Bitmap {
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

    /// Whether any block of the group beyond its overhead was ever taken.
    pub fn is_touched(&self, group: u32) -> bool {
        self.next > self.geometry.start(group) + u64::from(self.geometry.overhead(group))
    }

    /// Writes what is gathered and makes it last.
    pub fn finish(mut self) -> Result<(), Error> {
        self.flush()?;
        self.file.sync_all().map_err(Error::Io)
    }
}

/// One bit for each block of a group.
#[derive(Debug)]
pub struct Bitmap {
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

    /// The bitmap's block.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..]
    }

    /// How many blocks are not in use.
    pub fn free(&self) -> u32 {
        BLOCKS_PER_GROUP - self.bytes.iter().map(|byte| byte.count_ones()).sum::<u32>()
    }
}
