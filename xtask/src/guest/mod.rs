//! The files that a guest boots with, under `target/guest`: the kernel, its modules, the agent,
//! and what runs programs of other architectures.

mod agent;
pub mod interpreters;
pub mod kernel;
pub mod own_kernel;
pub mod package;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Builds all of them.
pub fn build() -> Result<()> {
    let directory = crate::target().join("guest");
    fs::create_dir_all(&directory)?;
    agent::build(&directory.join("initramfs.cpio"))?;
    kernel::fetch(&directory)?;
    interpreters::fetch(&directory)
}

/// Prepares a kernel as this directory, in the place of the one that is there.
fn replace_kernel(directory: &Path, image: &Path, source: &str) -> Result<()> {
    let kernels = directory
        .parent()
        .context("a kernel is kept among others")?;
    fs::create_dir_all(kernels)?;
    let new = tempfile::tempdir_in(kernels)?;
    container_kernel::install(image, source.to_owned(), new.path())?;
    remove(directory)?;
    Ok(fs::rename(new.keep(), directory)?)
}

/// Removes a directory, if it is there.
fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The kernels that there are, each a directory.
pub fn kernels() -> Result<Vec<PathBuf>> {
    let directory = crate::target().join("guest/kernels");
    let directories = ["container", "debian"].map(|name| directory.join(name));
    Ok(directories.into_iter().filter(|it| it.is_dir()).collect())
}

/// The archives that an installation needs.
pub fn files() -> Result<Vec<PathBuf>> {
    let directory = crate::target().join("guest");
    let mut files = Vec::new();
    let entries = fs::read_dir(&directory);
    let entries = entries.with_context(|| format!("reading {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "cpio")
        {
            files.push(path);
        }
    }
    Ok(files)
}
