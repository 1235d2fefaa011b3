//! The guest agent, alone in the initial RAM file system.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use container_kernel::Archive;

use crate::{checkout, command, say};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the agent and the archive that holds it.
pub fn build(archive: &Path) -> Result<()> {
    say("Building the guest agent");
    let target = crate::target();
    command::run(
        Command::new("cargo")
            .current_dir(checkout())
            .args(["build", "--quiet", "--locked", "--profile", "agent"])
            .args(["--package", "container-agent", "--target", TARGET])
            .arg("--target-dir")
            .arg(&target)
            // Nothing of the host's is there for it to link to.
            .env("RUSTFLAGS", "-C target-feature=+crt-static"),
    )?;
    let program = target.join(TARGET).join("agent/container-agent");
    let agent = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let mut contents = Archive::default();
    contents.directory("dev");
    contents.character_device("dev/console", 5, 1);
    contents.file("init", 0o755, agent);
    Ok(contents.write(archive)?)
}
