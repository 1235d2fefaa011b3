//! Runs other programs.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs a program with this process's standard streams.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = name(command);
    let status = command.status().with_context(|| start_error(&name))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// Runs a program and returns its standard output. Standard error becomes part of the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command.output().with_context(|| start_error(&name))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn start_error(name: &str) -> String {
    format!("cannot start {name} (install missing programs with: make packages)")
}
