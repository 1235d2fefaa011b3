//! Disk space that is kept for removals.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use nix::fcntl::posix_fallocate;

/// Size of the file in bytes: more than the lists that a removal writes, on any file system.
const SIZE: i64 = 1 << 20;

/// A file that only occupies disk space. Removals first replace a list by a shorter one, which
/// takes space until the old one is gone. On a full disk, this file's space serves for that.
#[derive(Debug)]
pub struct DiskReserve {
    file: PathBuf,
}

/// The space is free until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct ReleasedReserve<'a>(&'a DiskReserve);

impl DiskReserve {
    /// Reserves space in the data directory, if there is any.
    pub fn new(data: &Path) -> DiskReserve {
        let reserve = DiskReserve {
            file: data.join("reserve"),
        };
        reserve.fill();
        reserve
    }

    /// Frees the space until the result is dropped.
    pub fn release(&self) -> ReleasedReserve<'_> {
        // Without the file, there is nothing to free.
        let _ = File::options().write(true).truncate(true).open(&self.file);
        ReleasedReserve(self)
    }

    /// Occupies the space. A disk that is full now may have space the next time.
    fn fill(&self) {
        let fill = || -> io::Result<()> {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&self.file)?;
            Ok(posix_fallocate(file, 0, SIZE)?)
        };
        let _ = fill();
    }
}

impl Drop for ReleasedReserve<'_> {
    fn drop(&mut self) {
        self.0.fill();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn space_is_free_while_the_reserve_is_released() {
        let data = tempfile::tempdir().unwrap();
        let occupied = || {
            let metadata = fs::metadata(data.path().join("reserve")).unwrap();
            metadata.blocks() * 512
        };
        let reserve = DiskReserve::new(data.path());
        assert!(occupied() >= 1 << 20);
        let released = reserve.release();
        assert_eq!(occupied(), 0);
        drop(released);
        assert!(occupied() >= 1 << 20);
        fs::remove_file(data.path().join("reserve")).unwrap();
        drop(reserve.release());
        assert!(occupied() >= 1 << 20);
    }
}
