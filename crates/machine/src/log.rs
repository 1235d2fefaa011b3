//! Log files of bounded size, and the lines of them that error messages quote.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns where the older part of a log is kept after the log has reached its size limit.
pub fn rotated_log(log: &Path) -> PathBuf {
    let mut rotated = log.as_os_str().to_owned();
    rotated.push(".1");
    PathBuf::from(rotated)
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
    fn last_lines_of_a_short_or_missing_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("service.log");
        assert_eq!(last_lines(&log, 2), "");
        fs::write(&log, "a\nb\nc\n").unwrap();
        assert_eq!(last_lines(&log, 2), "b\nc");
        assert_eq!(last_lines(&log, 9), "a\nb\nc");
    }
}
