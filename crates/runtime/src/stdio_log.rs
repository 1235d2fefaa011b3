//! The log of what init prints.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use container_protocol::mux::Stream;
use tokio::io::AsyncReadExt;

/// A log that grows beyond this is put aside as `<name>.1`, and a new one begun.
const LARGEST: u64 = 8 << 20;

/// The log's file.
#[derive(Debug)]
pub struct StdioLog {
    path: PathBuf,
}

impl StdioLog {
    /// A log in this file, appended to.
    pub fn at(path: &Path) -> StdioLog {
        StdioLog {
            path: path.to_owned(),
        }
    }

    /// Takes all that comes. A log that cannot be written never stops the machine: what comes
    /// is dropped.
    pub async fn take(&mut self, mut from: Stream) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if let Err(error) = self.append(&buffer[..count]) {
                tracing::warn!("writing {}: {error}", self.path.display());
            }
        }
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|log| log.len() > LARGEST) {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            fs::rename(&self.path, aside)?;
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
        let log = StdioLog::at(&path);
        log.append(&vec![b'a'; usize::try_from(LARGEST).unwrap() + 1])
            .unwrap();
        log.append(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let aside = fs::metadata(directory.path().join("stdio.log.1")).unwrap();
        assert_eq!(aside.len(), LARGEST + 1);
    }
}
