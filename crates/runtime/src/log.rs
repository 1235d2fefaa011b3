//! What init or the kernel prints, in a file that does not grow without end.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use container_machine::put_aside;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::sleep,
};

/// A log that grows beyond this is [put aside](put_aside), and a new one begun.
const LARGEST: u64 = 8 << 20;

/// The log's file, and the one before it.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// A log in this file, appended to.
    pub fn at(path: &Path) -> Log {
        Log {
            path: path.to_owned(),
        }
    }

    /// Begins it anew.
    pub fn clear(&self) {
        for file in [&self.path, &put_aside(&self.path)] {
            // One that cannot be removed is appended to.
            let _ = fs::remove_file(file);
        }
    }

    /// Takes all that comes, having gathered it for so long. A log that cannot be written never stops
    /// the machine: what comes is dropped.
    pub async fn take(self, mut from: impl AsyncRead + Unpin, gather: Duration) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if let Err(error) = self.append(&buffer[..count]) {
                tracing::warn!("writing {}: {error}", self.path.display());
            }
            if !gather.is_zero() {
                sleep(gather).await;
            }
        }
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|log| log.len() > LARGEST) {
            fs::rename(&self.path, put_aside(&self.path))?;
        }
        File::options()
            .create(true)
            .append(true)
            .open(&self.path)?
            .write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stdio.log");
        let log = Log::at(&path);
        log.append(&vec![b'a'; usize::try_from(LARGEST).unwrap() + 1])
            .unwrap();
        log.append(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let aside = fs::metadata(directory.path().join("stdio.log.1")).unwrap();
        assert_eq!(aside.len(), LARGEST + 1);
        log.clear();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
