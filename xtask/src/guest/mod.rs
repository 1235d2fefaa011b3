//! The files that a guest boots with, under `target/guest`: the kernel, its modules, the agent.

mod agent;
pub mod archive;
mod kernel;
mod modules;
mod vmlinux;

use std::fs;

use anyhow::Result;

/// Builds all of them.
pub fn build() -> Result<()> {
    let directory = crate::target().join("guest");
    fs::create_dir_all(&directory)?;
    agent::build(&directory.join("initramfs.cpio"))?;
    kernel::fetch(&directory)
}
