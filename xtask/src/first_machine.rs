//! What a person sees first: a machine, and who and where they are in it.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{
    command,
    registry::{self, Registry},
    say, target,
};

/// Makes the machine `dev` unless it is there, and shows three commands run in it.
pub fn look_inside() -> Result<()> {
    let is_there = machine(&["inspect", "dev"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?
        .success();
    if !is_there {
        let registry = Registry::start(&registry::storage())?;
        let image = format!("{}/debian-systemd:12", registry.address());
        show(&["create", &image, "--name", "dev"])?;
    }
    for inside in [&["whoami"][..], &["pwd"], &["uname", "-a"]] {
        show(&[&["run", "-n", "dev", "--"], inside].concat())?;
    }
    Ok(())
}

fn show(arguments: &[&str]) -> Result<()> {
    say(&format!("$ container machine {}", arguments.join(" ")));
    command::run(&mut machine(arguments))
}

fn machine(arguments: &[&str]) -> Command {
    let mut command = Command::new(target().join("release/container"));
    command.arg("machine").args(arguments);
    command
}
