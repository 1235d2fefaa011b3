//! Log files of bounded size, and the lines of them that error messages quote.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

/// Maximum size in bytes of the log of a process of this program.
const MAX_SIZE: u64 = 4 << 20;

/// Standard error of a process, which is usually its log. One that has become too large is
/// [renamed](rotated_log), and a new one begun.
#[derive(Debug, Clone, Copy)]
pub struct BoundedStderr;

impl Write for BoundedStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        // A failure leaves the log that there is.
        if let Ok(Some(new)) = rotate(&stderr, MAX_SIZE) {
            nix::unistd::dup2_stderr(new)?;
        }
        stderr.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Renames a log that is larger than `max_size`. Returns the new one that takes its place.
fn rotate(log: impl AsFd, max_size: u64) -> io::Result<Option<File>> {
    let log = File::from(log.as_fd().try_clone_to_owned()?);
    let metadata = log.metadata()?;
    if !metadata.is_file() || metadata.len() <= max_size {
        return Ok(None);
    }
    let path = fs::read_link(format!("/proc/self/fd/{}", log.as_raw_fd()))?;
    let begin = || {
        fs::rename(&path, rotated_log(&path))?;
        File::options().create(true).append(true).open(&path)
    };
    // A log that was removed has no name any more.
    begin().map(Some).or_else(|_| {
        log.set_len(0)?;
        Ok(None)
    })
}

/// Returns where the older part of a log is kept after the log has reached its size limit.
pub fn rotated_log(log: &Path) -> PathBuf {
    let mut rotated = log.as_os_str().to_owned();
    rotated.push(".1");
    PathBuf::from(rotated)
}

/// Returns where the log of the boot before the last one is kept.
pub fn previous_log(log: &Path) -> PathBuf {
    let mut previous = log.as_os_str().to_owned();
    previous.push(".previous");
    PathBuf::from(previous)
}

/// Returns the last `count` lines of a log, for an error message; empty if it cannot be read.
pub fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_too_large_is_renamed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("runtime.log");
        let open = || File::options().create(true).append(true).open(&path);
        let mut log = open().unwrap();
        log.write_all(b"old").unwrap();
        assert!(rotate(&log, 3).unwrap().is_none());
        let mut new = rotate(&log, 2).unwrap().unwrap();
        new.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read(rotated_log(&path)).unwrap(), b"old");
        fs::remove_file(&path).unwrap();
        assert!(rotate(&new, 2).unwrap().is_none());
        assert_eq!(new.metadata().unwrap().len(), 0);
    }

    #[test]
    fn last_lines_of_a_short_or_missing_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("service.log");
        assert_eq!(last_lines(&log, 2), "");
        fs::write(&log, "a\nb\nc\n").unwrap();
        assert_eq!(last_lines(&log, 2), "b\nc");
        assert_eq!(last_lines(&log, 9), "a\nb\nc");
    }
}
