//! The sentence that a command ends with when it fails.

use std::{
    fmt::Display,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};

use crate::output;

/// Why a command failed, for people.
#[derive(Debug)]
pub struct Failure {
    message: String,
}

impl Failure {
    /// A failure with this sentence.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
        }
    }

    /// Prints it to standard error.
    pub fn print(&self) {
        // With standard error gone there is nobody to tell.
        let _ = writeln!(io::stderr(), "{} {}", prefix(), self.message);
    }
}

/// The word that every error begins with.
pub fn prefix() -> String {
    let style = match output::is_coloured(&io::stderr()) {
        true => AnsiColor::Red.on_default().bold(),
        false => Style::new(),
    };
    format!("{style}Error:{style:#}")
}

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::new(error.to_string())
    }
}
