//! Builds the files that a guest boots with, under `target/guest`: the initramfs with the agent,
//! the SSH server and the file system checker, the kernels with their modules, and interpreters for
//! programs of other architectures.

mod agent;
mod e2fsck;
pub mod interpreters;
pub mod kernel;
mod kernels;
mod openssh;
pub mod own_kernel;
pub mod package;

pub use kernels::kernels;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::directories::target;

/// Builds all of them, except the [kernel for machines](own_kernel), which takes long.
pub fn build() -> Result<()> {
    let directory = target().join("guest");
    fs::create_dir_all(&directory)?;
    let ssh_server = openssh::build(&directory)?;
    let checker = e2fsck::fetch(&directory)?;
    agent::build(&directory.join("initramfs.cpio"), &ssh_server, &checker)?;
    kernel::fetch(&directory)?;
    interpreters::fetch(&directory)
}

/// Returns the cpio archives of an installation.
pub fn files() -> Result<Vec<PathBuf>> {
    let directory = target().join("guest");
    let mut files = Vec::new();
    let entries = fs::read_dir(&directory);
    let entries = entries.with_context(|| format!("cannot read {}", directory.display()))?;
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
