//! Log files of bounded size, for output of init, the kernel and the file share.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use container_machine::rotated_log;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::sleep,
};

/// Maximum size in bytes. A larger log is [renamed](rotated_log) and a new one started, so between
/// 8 and 16 MiB are kept.
const MAX_SIZE: u64 = 8 << 20;

/// A log file, and the part that was put aside.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
}

impl Log {
    /// Returns the log in this file, which need not exist.
    pub(crate) fn new(path: &Path) -> Log {
        Log {
            path: path.to_owned(),
        }
    }

    /// Removes the log's files.
    pub(crate) fn clear(&self) {
        for file in [&self.path, &rotated_log(&self.path)] {
            // If it cannot be removed, it is appended to.
            let _ = fs::remove_file(file);
        }
    }

    /// Renames the log. If that fails, for example because there is none, nothing is kept.
    pub(crate) fn keep_as(&self, path: &Path) {
        let _ = fs::rename(&self.path, path);
    }

    /// Appends the output of `from` until it ends. Output is batched over `interval`. If the log
    /// cannot be written, output is dropped: a writer in the guest must not wait for it.
    pub(crate) async fn write_from(self, mut from: impl AsyncRead + Unpin, interval: Duration) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if let Err(error) = self.append(&buffer[..count]) {
                tracing::warn!("cannot write {}: {error}", self.path.display());
            }
            if !interval.is_zero() {
                sleep(interval).await;
            }
        }
    }

    /// Appends a line of this program's own. A failure is only logged.
    pub(crate) fn append_line(&self, line: &str) {
        if let Err(error) = self.append(format!("{line}\n").as_bytes()) {
            tracing::warn!("cannot write {}: {error}", self.path.display());
        }
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|log| log.len() > MAX_SIZE) {
            fs::rename(&self.path, rotated_log(&self.path))?;
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
    fn a_full_log_is_renamed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stdio.log");
        let log = Log::new(&path);
        log.append(&vec![b'a'; usize::try_from(MAX_SIZE).unwrap() + 1])
            .unwrap();
        log.append(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let aside = fs::metadata(directory.path().join("stdio.log.1")).unwrap();
        assert_eq!(aside.len(), MAX_SIZE + 1);
        log.clear();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
