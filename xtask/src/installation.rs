//! An installation: `PREFIX/bin/container` with what it needs in `PREFIX/lib/container`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};

use crate::target;

/// Copies the program and the guest's files below `prefix`, for anyone to use.
pub fn install(prefix: &Path) -> Result<()> {
    let (programs, files) = (prefix.join("bin"), prefix.join("lib/container"));
    for directory in [&programs, &files] {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    copy(&target().join("release/container"), &programs, 0o755)?;
    for file in ["vmlinux", "modules.cpio", "initramfs.cpio"] {
        copy(&target().join("guest").join(file), &files, 0o644)?;
    }
    Ok(())
}

/// Puts a new file in the place of an old one, which may be running.
fn copy(file: &Path, into: &Path, mode: u32) -> Result<()> {
    let name = file.file_name().unwrap_or_default();
    let (new, to) = (
        into.join(format!(".{}.new", name.display())),
        into.join(name),
    );
    fs::copy(file, &new)
        .with_context(|| format!("copying {} (`make build` makes it)", file.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    fs::rename(&new, &to).with_context(|| format!("writing {}", to.display()))
}
