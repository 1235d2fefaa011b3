//! The lock in a machine's bundle: there is one runtime for a machine at most, and whether there is one
//! is known even where its socket is gone.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};

/// How long a runtime whose machine has ended may take to end itself.
const SUCCESSION: Duration = Duration::from_secs(10);

/// Makes the machine this process's own for as long as it holds the lock.
pub fn claim(lock: &Path) -> Result<Flock<File>, String> {
    let failed = |error: io::Error| format!("locking {}: {error}", lock.display());
    let deadline = Instant::now() + SUCCESSION;
    loop {
        // Not emptied before the lock is held: it names the process that holds it.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock);
        match Flock::lock(file.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
            Ok(held) => {
                let mut file: &File = &held;
                let named = held
                    .set_len(0)
                    .and_then(|()| write!(file, "{}", std::process::id()));
                return named.map_err(failed).map(|()| held);
            }
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Err(_) => {
                return Err("the machine is running already, in another runtime process".to_owned());
            }
        }
    }
}

/// The process that holds the lock; none if none does.
pub fn holder(lock: &Path) -> Option<u32> {
    let file = File::open(lock).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => None,
        // One that has just begun may not have written it yet.
        Err(_) => Some(fs::read_to_string(lock).ok()?.parse().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let lock = directory.path().join("lock");
        assert_eq!(holder(&lock), None);
        let held = claim(&lock).unwrap();
        assert_eq!(holder(&lock), Some(std::process::id()));
        drop(held);
        assert_eq!(holder(&lock), None);
    }
}
