//! Debian's packaged cloud kernel: fetched with apt and unpacked, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{package, replace_kernel};
use crate::{command, recipe::Recipe, say};

/// Depends on the newest kernel's own package.
const NEWEST: &str = "linux-image-cloud-amd64";

/// Prepares the newest kernel as `kernels/debian` in `directory`.
pub fn fetch(directory: &Path) -> Result<()> {
    let package = match newest_of(NEWEST) {
        Ok(package) => package,
        Err(error) if directory.join("kernels/debian").exists() => {
            say(&format!("Keeping the kernel that is there: {error:#}"));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let recipe = Recipe::default()
        .with(&package)
        .with(include_str!("kernel.rs"));
    recipe.make(directory.join("kernel.stamp"), || {
        say(&format!("Fetching the kernel {package}"));
        let scratch = tempfile::tempdir_in(directory)?;
        let unpacked = unpack(&package, scratch.path())?;
        let release = release(&unpacked)?;
        let image = unpacked.join(format!("boot/vmlinuz-{release}"));
        replace_kernel(&directory.join("kernels/debian"), &image, &package)
    })
}

/// Fetches a package of a kernel and unpacks it in `scratch`, with a list of what its modules need.
/// Returns where.
pub fn unpack(package: &str, scratch: &Path) -> Result<PathBuf> {
    let unpacked = package::fetch(&[package], scratch)?;
    command::run(
        Command::new("depmod")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .arg("--basedir")
            .arg(&unpacked)
            .arg(release(&unpacked)?),
    )?;
    Ok(unpacked)
}

/// `package=version` of the kernel that a package without one of its own depends on.
pub fn newest_of(package: &str) -> Result<String> {
    let depends = command::output(Command::new("apt-cache").args(["depends", package]))?;
    let found = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    match found {
        Some(rest) => package::candidate(&format!("linux-image-{rest}")),
        None => bail!("apt knows no package {package}: run `apt-get update`"),
    }
}

fn release(unpacked: &Path) -> Result<String> {
    let mut releases = fs::read_dir(unpacked.join("lib/modules"))?;
    let release = releases.next().context("the package holds no modules")??;
    Ok(release.file_name().to_string_lossy().into_owned())
}
