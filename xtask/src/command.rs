//! Other programs.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs it with this process's own streams.
pub fn run(command: &mut Command) -> Result<()> {
    let name = name(command);
    let status = command.status().with_context(|| starting(&name))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// Runs it and returns what it printed; what it says on standard error comes with its failure.
pub fn output(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command.output().with_context(|| starting(&name))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn starting(name: &str) -> String {
    format!("starting {name} (`make packages` installs what is missing)")
}
