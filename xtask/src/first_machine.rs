//! Demonstrates a machine: creates one and shows who and where the user is in it.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{
    command,
    directories::target,
    progress,
    registry::{self, Registry},
};

/// Creates the machine `dev` if it does not exist, and runs three commands in it.
pub fn demonstrate() -> Result<()> {
    let exists = machine(&["inspect", "dev"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?
        .success();
    if !exists {
        let registry = Registry::start(&registry::storage())?;
        let image = format!("{}/debian-systemd:12", registry.address());
        run_visibly(&["create", &image, "--name", "dev"])?;
    }
    for inside in [&["whoami"][..], &["pwd"], &["uname", "-a"]] {
        run_visibly(&[&["run", "-n", "dev", "--"], inside].concat())?;
    }
    Ok(())
}

/// Prints a command as if typed at a prompt, and runs it.
fn run_visibly(arguments: &[&str]) -> Result<()> {
    progress::print(&format!("$ container machine {}", arguments.join(" ")));
    command::run(&mut machine(arguments))
}

fn machine(arguments: &[&str]) -> Command {
    let mut command = Command::new(target().join("release/container"));
    command.arg("machine").args(arguments);
    command
}
