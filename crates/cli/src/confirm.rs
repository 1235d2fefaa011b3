//! Confirmation of what cannot be undone.

use std::io::{self, BufRead, IsTerminal};

use crate::{failure::Failure, output};

/// Whether a user can be asked.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// Prints what will happen, and asks whether to continue.
pub(crate) fn confirm(what: &str) -> Result<bool, Failure> {
    output::note(what);
    output::ask("Continue? [y/N] ");
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(Failure::cannot("read standard input"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
