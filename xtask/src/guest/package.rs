//! Debian's packages: fetched with apt and unpacked, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::command;

/// Fetches the package that these arguments of `apt-get download` name, and unpacks it in
/// `scratch`. Returns where.
pub fn fetch(package: &[&str], scratch: &Path) -> Result<PathBuf> {
    command::run(
        Command::new("apt-get")
            .args(["--quiet=2", "-o", "APT::Sandbox::User=root", "download"])
            .args(package)
            .current_dir(scratch),
    )?;
    let unpacked = scratch.join("unpacked");
    let archive = fs::read_dir(scratch)?
        .next()
        .context("apt downloaded nothing")??;
    command::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(archive.path())
            .arg(&unpacked),
    )?;
    Ok(unpacked)
}
