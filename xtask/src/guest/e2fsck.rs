//! Fetches the file system checker of machines: e2fsck from Debian, as a static program.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::package;
use crate::{inputs::Inputs, progress};

const PACKAGE: &str = "e2fsck-static";

/// Fetches the program into `directory`, unless it exists, and returns its path.
pub(super) fn fetch(directory: &Path) -> Result<PathBuf> {
    let program = directory.join("e2fsck");
    let package = package::candidate(PACKAGE)?;
    let inputs = Inputs::default()
        .with(&package)
        .with(include_str!("e2fsck.rs"));
    inputs.build_if_changed(directory.join("e2fsck.stamp"), || {
        progress::print(&format!("Fetching the file system checker {package}"));
        let scratch = tempfile::tempdir_in(directory)?;
        let unpacked = package::fetch(&[&package], scratch.path())?;
        fs::copy(unpacked.join("sbin/e2fsck.static"), &program)
            .with_context(|| format!("cannot write {}", program.display()))?;
        Ok(())
    })?;
    Ok(program)
}
