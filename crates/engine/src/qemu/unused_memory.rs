//! Keeps a save from occupying memory that the guest does not use.
//!
//! QEMU reads all memory to find pages of zeroes. The memory is a file (memfd), in which reading a
//! hole allocates a page, so a machine of 16 GiB would take 16 GiB of the host while it is saved.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::Errno,
};

/// Name of the memory's file (`memory-backend-memfd`).
const MEMORY: &str = "/memfd:memory-backend-memfd";

/// The parts of a paused machine's memory that have never been used.
#[derive(Debug)]
pub(super) struct UnusedMemory {
    memory: File,
    /// Start and length of each hole.
    holes: Vec<(u64, u64)>,
}

impl UnusedMemory {
    /// Finds the unused memory of a QEMU process, whose machine must be paused.
    pub(super) fn find(process: u32) -> io::Result<UnusedMemory> {
        for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
            let path = entry?.path();
            let is_memory = |target: &Path| target.to_string_lossy().starts_with(MEMORY);
            // A descriptor may have been closed meanwhile.
            if fs::read_link(&path).is_ok_and(|target| is_memory(&target)) {
                let memory = File::options().read(true).write(true).open(path)?;
                return UnusedMemory::of(memory);
            }
        }
        Err(io::Error::from(io::ErrorKind::NotFound))
    }

    fn of(memory: File) -> io::Result<UnusedMemory> {
        let length = memory.metadata()?.len();
        let mut holes = Vec::new();
        let mut at = 0;
        while at < length {
            let hole = seek(&memory, SeekFrom::Hole(at))?;
            at = match seek(&memory, SeekFrom::Data(hole)) {
                Ok(data) => data,
                Err(Errno::NXIO) => length,
                Err(error) => return Err(error.into()),
            };
            if at > hole {
                holes.push((hole, at - hole));
            }
        }
        Ok(UnusedMemory { memory, holes })
    }

    /// Frees what has been allocated in the holes since.
    pub(super) fn free(&self) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for (start, length) in &self.holes {
            fallocate(&self.memory, flags, *start, *length)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn only_holes_are_freed() {
        let memory = File::from(memfd_create(c"memory", MemfdFlags::CLOEXEC).unwrap());
        memory.set_len(1 << 20).unwrap();
        memory.write_all_at(b"used", 1 << 16).unwrap();
        let used = memory.metadata().unwrap().blocks();
        let unused = UnusedMemory::of(memory.try_clone().unwrap()).unwrap();
        memory.write_all_at(&[0; 1 << 16], 1 << 18).unwrap();
        memory.write_all_at(&[0; 1], 0).unwrap();
        assert!(memory.metadata().unwrap().blocks() > used);
        unused.free().unwrap();
        assert_eq!(memory.metadata().unwrap().blocks(), used);
        let mut kept = [0; 4];
        memory.read_exact_at(&mut kept, 1 << 16).unwrap();
        assert_eq!(&kept, b"used");
    }
}
