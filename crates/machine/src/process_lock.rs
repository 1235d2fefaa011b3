//! A lock file that one process holds for its lifetime, and that names this process.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};

/// Interval between two attempts to lock a file that another process holds.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// An exclusively locked file (flock(2)) with this process's id in decimal, padded with spaces. The
/// kernel releases the lock when the process ends, however it ends.
#[derive(Debug)]
pub struct ProcessLock {
    _file: Flock<File>,
}

/// The lock file cannot be created, locked or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot lock {path}: {cause}")]
pub struct ProcessLockError {
    path: PathBuf,
    cause: io::Error,
}

impl ProcessLock {
    /// Locks the file, and creates it if it is missing. Returns `None` when another process still
    /// holds it after `timeout`, which leaves a predecessor time to end.
    pub fn acquire(
        path: &Path,
        timeout: Duration,
    ) -> Result<Option<ProcessLock>, ProcessLockError> {
        let failed = |cause: io::Error| ProcessLockError {
            path: path.to_owned(),
            cause,
        };
        let deadline = Instant::now() + timeout;
        loop {
            // Truncated only after the lock is held: until then the file names its holder.
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path);
            match Flock::lock(file.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => {
                    write_process_id(&locked).map_err(failed)?;
                    return Ok(Some(ProcessLock { _file: locked }));
                }
                Err(_) if Instant::now() < deadline => thread::sleep(RETRY_INTERVAL),
                Err(_) => return Ok(None),
            }
        }
    }

    /// Returns the id of the process that holds the lock, `None` for an unlocked file. The id is 0
    /// if the holder has not written it yet.
    pub fn holder(path: &Path) -> Option<u32> {
        let file = File::open(path).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => None,
            Err(_) => {
                let text = fs::read_to_string(path).ok()?;
                Some(text.trim().parse().unwrap_or_default())
            }
        }
    }
}

/// Writes the id over the previous one, in all its places, because that needs no space on a full
/// disk.
fn write_process_id(file: &File) -> io::Result<()> {
    file.write_all_at(format!("{:<10}", std::process::id()).as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let acquire = || ProcessLock::acquire(&path, Duration::ZERO).unwrap();
        assert_eq!(ProcessLock::holder(&path), None);
        let lock = acquire().unwrap();
        assert_eq!(ProcessLock::holder(&path), Some(std::process::id()));
        assert!(acquire().is_none());
        drop(lock);
        assert_eq!(ProcessLock::holder(&path), None);
    }

    #[test]
    fn a_process_id_is_read_with_space_around_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let _lock = ProcessLock::acquire(&path, Duration::ZERO).unwrap();
        for text in ["42", "42\n", "42        "] {
            fs::write(&path, text).unwrap();
            assert_eq!(ProcessLock::holder(&path), Some(42));
        }
    }
}
