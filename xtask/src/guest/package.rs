//! Debian's packages: fetched with apt and unpacked, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::command;

/// `package=version`, as apt would fetch it.
pub fn candidate(package: &str) -> Result<String> {
    let about = command::output(
        Command::new("apt-cache")
            .args(["show", "--no-all-versions"])
            .arg(package),
    )?;
    let version = about
        .lines()
        .find_map(|line| line.strip_prefix("Version: "));
    match version {
        Some(version) => Ok(format!("{package}={version}")),
        None => bail!("apt does not say which version of {package} there is: run `apt-get update`"),
    }
}

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
