//! Checks of the source text that rustfmt and clippy do not make: prose, error types, and import
//! cycles between files.

mod errors;
mod imports;
mod modules;
mod prose;
mod source;

use anyhow::{Result, bail};

use crate::progress;

/// Runs all checks on the files that git tracks, and prints every violation.
///
/// # Errors
/// If a file cannot be read or parsed, or breaks a rule.
pub fn run() -> Result<()> {
    let files = source::tracked_files()?;
    let mut violations = prose::check(&files)?;
    violations.extend(errors::check(&files)?);
    violations.extend(imports::check()?);
    for violation in &violations {
        progress::print(&violation.to_string());
    }
    if !violations.is_empty() {
        let number = violations.len();
        let plural = if number == 1 { "" } else { "s" };
        bail!("{number} violation{plural} of docs/style.md and ARCHITECTURE.md");
    }
    Ok(())
}
