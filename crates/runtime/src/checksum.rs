//! Checksums of saved virtual machines.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use rustix::fs::SeekFrom as Extent;
use serde::{Deserialize, Serialize};

/// Length of a sparse file, and the CRC-32 of its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksum {
    length: u64,
    crc: u32,
}

impl Checksum {
    /// Computes the checksum of a file. Holes are skipped.
    pub(crate) fn read(path: &Path) -> io::Result<Checksum> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let (mut hasher, mut buffer) = (crc32fast::Hasher::new(), vec![0; 1 << 20]);
        let mut at = 0;
        while let Some(start) = seek(&file, Extent::Data(at))? {
            at = seek(&file, Extent::Hole(start))?.unwrap_or(length);
            hasher.update(&start.to_be_bytes());
            file.seek(SeekFrom::Start(start))?;
            let mut extent = (&mut file).take(at - start);
            while let count @ 1.. = extent.read(&mut buffer)? {
                hasher.update(&buffer[..count]);
            }
        }
        Ok(Checksum {
            length,
            crc: hasher.finalize(),
        })
    }
}

/// Returns the position of the next data or hole; absent if there is none.
fn seek(file: &File, extent: Extent) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, extent) {
        Ok(position) => Ok(Some(position)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
