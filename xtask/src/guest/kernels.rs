//! The directory of prepared kernels, `target/guest/kernels`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::directories::target;

/// Returns the directories of the prepared kernels, that for machines first.
pub fn kernels() -> Result<Vec<PathBuf>> {
    let directory = target().join("guest/kernels");
    let directories = ["container", "debian"].map(|name| directory.join(name));
    Ok(directories.into_iter().filter(|it| it.is_dir()).collect())
}

/// Prepares a kernel image as `directory`, replacing one that exists.
pub(super) fn replace_kernel(directory: &Path, image: &Path, source: &str) -> Result<()> {
    let kernels = directory
        .parent()
        .context("the kernel's directory has no parent")?;
    fs::create_dir_all(kernels)?;
    let new = tempfile::tempdir_in(kernels)?;
    container_kernel::install(image, source.to_owned(), new.path())?;
    remove(directory)?;
    Ok(fs::rename(new.keep(), directory)?)
}

/// Removes a directory if it exists.
pub(super) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
