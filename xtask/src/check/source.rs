//! Checked files, and violations in them.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{command, directories::checkout};

/// One place that breaks a rule.
pub(super) struct Violation {
    pub(super) file: PathBuf,
    /// Line number, from 1; 0 for the whole file.
    pub(super) line: usize,
    pub(super) rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}: {}",
            self.file.display(),
            self.line,
            self.rule
        )
    }
}

/// Paths of the tracked files, and of new ones that are not ignored, relative to the checkout.
pub(super) fn tracked_files() -> Result<Vec<PathBuf>> {
    let output = command::output(
        Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(checkout()),
    )
    .context("cannot list the checkout's files")?;
    Ok(output
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .filter(|path| checkout().join(path).is_file())
        .collect())
}

/// Reads a file of the checkout.
pub(super) fn read(file: &Path) -> Result<String> {
    fs::read_to_string(checkout().join(file))
        .with_context(|| format!("cannot read {}", file.display()))
}
