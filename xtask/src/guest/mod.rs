//! The files that a guest boots with, under `target/guest`: the kernel, its modules, the agent,
//! and what runs programs of other architectures.

mod agent;
pub mod archive;
pub mod interpreters;
mod kernel;
mod modules;
mod package;
mod vmlinux;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

/// Builds all of them.
pub fn build() -> Result<()> {
    let directory = crate::target().join("guest");
    fs::create_dir_all(&directory)?;
    agent::build(&directory.join("initramfs.cpio"))?;
    kernel::fetch(&directory)?;
    interpreters::fetch(&directory)
}

/// The files that an installation needs.
pub fn files() -> Result<Vec<PathBuf>> {
    let directory = crate::target().join("guest");
    let mut files = vec![directory.join("vmlinux")];
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
