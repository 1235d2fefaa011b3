//! Messages for the person who runs a task.

use std::io::{self, Write};

/// Prints a line on standard error.
pub fn print(message: &str) {
    // Fails only if standard error is closed.
    let _ = writeln!(io::stderr(), "{message}");
}
