//! The outcome of a command.

use std::process::Output;

/// Exit code and output of a command.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code, absent after death by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Returns the error of a failed command, without progress lines. Panics if the command did not
    /// fail with exit code 1, or 125 as `run` and `exec` do, and empty standard output.
    pub fn error(&self) -> &str {
        assert!([Some(1), Some(125)].contains(&self.code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let mut lines = self.stderr.lines().filter(|line| !line.starts_with('['));
        let first = lines.next().unwrap_or_default();
        first
            .strip_prefix("Error: ")
            .unwrap_or_else(|| panic!("no error in {self:?}"))
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
