//! Debian's packaged cloud kernel: fetched with apt and unpacked, not installed.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::{modules, package, vmlinux};
use crate::{command, recipe::Recipe, say};

/// Depends on the newest kernel's own package.
const NEWEST: &str = "linux-image-cloud-amd64";

/// Puts `vmlinux` and `modules.cpio` of the newest kernel into `directory`.
pub fn fetch(directory: &Path) -> Result<()> {
    let package = match newest() {
        Ok(package) => package,
        Err(error) if directory.join("vmlinux").exists() => {
            say(&format!("Keeping the kernel that is there: {error:#}"));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let stamp = directory.join("kernel.stamp");
    let recipe = Recipe::default()
        .with(&package)
        .with(include_str!("modules.rs"))
        .with(include_str!("vmlinux.rs"));
    recipe.make(stamp, || {
        say(&format!("Fetching the kernel {package}"));
        let scratch = tempfile::tempdir_in(directory)?;
        let unpacked = package::fetch(&[&package], scratch.path())?;
        let release = release(&unpacked)?;
        modules::pack(&unpacked, &release, &directory.join("modules.cpio"))?;
        let image = unpacked.join(format!("boot/vmlinuz-{release}"));
        let kernel = vmlinux::unpack(&fs::read(&image)?)
            .with_context(|| format!("unpacking {}", image.display()))?;
        let new = directory.join("vmlinux.new");
        fs::write(&new, kernel)?;
        Ok(fs::rename(new, directory.join("vmlinux"))?)
    })
}

/// `package=version` of the newest kernel, as apt knows it.
fn newest() -> Result<String> {
    let depends = command::output(Command::new("apt-cache").args(["depends", NEWEST]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let Some(package) = package.map(|rest| format!("linux-image-{rest}")) else {
        bail!("apt knows no package {NEWEST}: run `apt-get update`");
    };
    let about = command::output(
        Command::new("apt-cache")
            .args(["show", "--no-all-versions"])
            .arg(&package),
    )?;
    let version = about
        .lines()
        .find_map(|line| line.strip_prefix("Version: "))
        .with_context(|| format!("apt does not say which version of {package} there is"))?;
    Ok(format!("{package}={version}"))
}

fn release(unpacked: &Path) -> Result<String> {
    let mut releases = fs::read_dir(unpacked.join("lib/modules"))?;
    let release = releases.next().context("the package holds no modules")??;
    Ok(release.file_name().to_string_lossy().into_owned())
}
