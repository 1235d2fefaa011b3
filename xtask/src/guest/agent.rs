//! Builds the guest agent and its initramfs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use container_kernel::Initramfs;

use crate::{
    command,
    directories::{checkout, target},
    progress,
};

/// A separate target keeps the agent's `RUSTFLAGS` from rebuilding the host's programs.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the agent and writes it as `init` into a cpio archive, with the SSH server as `sshd` and
/// the file system checker as `e2fsck`.
pub(super) fn build(archive: &Path, ssh_server: &Path, checker: &Path) -> Result<()> {
    progress::print("Building the guest agent");
    let target = target();
    command::run(
        Command::new("cargo")
            .current_dir(checkout())
            .args(["build", "--quiet", "--locked", "--profile", "agent"])
            .args(["--package", "container-agent", "--target", TARGET])
            .arg("--target-dir")
            .arg(&target)
            // The initramfs has no shared libraries.
            .env("RUSTFLAGS", "-C target-feature=+crt-static"),
    )?;
    let program = target.join(TARGET).join("agent/container-agent");
    let read = |program: &Path| {
        fs::read(program).with_context(|| format!("cannot read {}", program.display()))
    };
    let mut contents = Initramfs::default();
    contents.directory("dev");
    contents.character_device("dev/console", 5, 1);
    contents.file("init", 0o755, read(&program)?);
    contents.file("sshd", 0o755, read(ssh_server)?);
    contents.file("e2fsck", 0o755, read(checker)?);
    Ok(contents.write(archive)?)
}
