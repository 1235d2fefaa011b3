//! The sentence that a command ends with when it fails.

use std::{
    fmt::Display,
    io::{self, Write},
};

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
        let _ = writeln!(io::stderr(), "Error: {}", self.message);
    }
}

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::new(error.to_string())
    }
}
