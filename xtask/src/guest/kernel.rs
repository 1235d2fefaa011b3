//! Fetches Debian's cloud kernel. The package is unpacked and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{kernels::replace_kernel, package};
use crate::{command, inputs::Inputs, progress};

/// Metapackage that depends on the package of the newest kernel.
const NEWEST: &str = "linux-image-cloud-amd64";

/// Prepares the newest kernel as `kernels/debian` in `directory`.
pub fn fetch(directory: &Path) -> Result<()> {
    let package = match newest_of(NEWEST) {
        Ok(package) => package,
        Err(error) if directory.join("kernels/debian").exists() => {
            progress::print(&format!("Keeping the existing kernel: {error:#}"));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let inputs = Inputs::default()
        .with(&package)
        .with(include_str!("kernel.rs"));
    inputs.build_if_changed(directory.join("kernel.stamp"), || {
        progress::print(&format!("Fetching the kernel {package}"));
        let scratch = tempfile::tempdir_in(directory)?;
        let unpacked = unpack(&package, scratch.path())?;
        let release = release(&unpacked)?;
        let image = unpacked.join(format!("boot/vmlinuz-{release}"));
        replace_kernel(&directory.join("kernels/debian"), &image, &package)
    })
}

/// Fetches a kernel package, unpacks it in `scratch` and runs depmod on its modules. Returns the
/// directory of the unpacked files.
pub fn unpack(package: &str, scratch: &Path) -> Result<PathBuf> {
    let unpacked = package::fetch(&[package], scratch)?;
    package::index_modules(&unpacked, &release(&unpacked)?)?;
    Ok(unpacked)
}

/// Returns the kernel package that a metapackage depends on, as `package=version`.
pub fn newest_of(package: &str) -> Result<String> {
    let depends = command::output(Command::new("apt-cache").args(["depends", package]))?;
    let found = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    match found {
        Some(rest) => package::candidate(&format!("linux-image-{rest}")),
        None => bail!("package {package} not found by apt (update its lists with: apt-get update)"),
    }
}

fn release(unpacked: &Path) -> Result<String> {
    let mut releases = fs::read_dir(unpacked.join("lib/modules"))?;
    let release = releases
        .next()
        .context("the kernel package contains no modules")??;
    Ok(release.file_name().to_string_lossy().into_owned())
}
