//! Fetches Debian packages with apt and unpacks them without installing them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::command;

/// Returns the version of a package that apt would install, as `package=version`.
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
        None => bail!("package {package} not found by apt (update its lists with: apt-get update)"),
    }
}

/// Runs depmod on the modules of a kernel in `tree/lib/modules/RELEASE`.
pub(super) fn index_modules(tree: &Path, release: &str) -> Result<()> {
    command::run(
        Command::new("depmod")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .arg("--basedir")
            .arg(tree)
            .arg(release),
    )
}

/// Fetches the package given by arguments of `apt-get download` and unpacks it in `scratch`, an
/// empty directory. Returns the directory of the unpacked files.
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
        .context("apt-get downloaded no package")??;
    command::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(archive.path())
            .arg(&unpacked),
    )?;
    Ok(unpacked)
}
