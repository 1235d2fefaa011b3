//! One command in the machine.

use serde::{Deserialize, Serialize};

/// What to run, sent once on [`Port::Command`](crate::Port::Command).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandRequest {
    /// What to run.
    pub command: CommandLine,
    /// As whom.
    pub identity: Identity,
    /// Set on top of the login environment (PATH, HOME, USER, SHELL …).
    pub environment: Vec<(String, String)>,
    /// Where.
    pub working_directory: WorkingDirectory,
    /// What the command's standard streams are.
    pub stdio: Stdio,
}

/// The two ways to run something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CommandLine {
    /// The user's login shell, as a login.
    Login,
    /// The user's login shell with `-c` and this line.
    Shell(String),
    /// One half of a copy, done by the agent's own program as this user.
    Copy(Copy),
}

/// The guest's half of a copy between host and machine. A relative path starts at the working
/// directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Copy {
    /// Write a file or directory to standard output, as a tar stream.
    Out {
        /// Which one.
        path: String,
        /// Whether the stream's names begin with its own, as `tar -c` writes them.
        named: bool,
    },
    /// Take the copy of a file or directory from standard input.
    In {
        /// Where to.
        path: String,
        /// Its name in a directory that is there; none where a directory's contents are meant.
        name: Option<String>,
    },
    /// Unpack the tar stream on standard input.
    InTar {
        /// In this directory.
        path: String,
    },
}

/// Whose rights a command has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The user.
    pub user: UserReference,
    /// The primary group; the user's own where there is none.
    pub group: Option<u32>,
    /// Groups on top of the user's own.
    pub supplementary_groups: Vec<u32>,
}

/// A user of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UserReference {
    /// By name: must be in the guest's passwd.
    Name(String),
    /// By number: may be unknown to the guest.
    Id(u32),
}

/// Where a command starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkingDirectory {
    /// The user's home, or `/` where that is missing.
    Home,
    /// This directory if it is there, else as for `Home`.
    Preferred(String),
    /// This directory, and an error when it is not there.
    Exact(String),
}

/// What a command's standard streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stdio {
    /// Three pipes: the streams `Stdin`, `Stdout` and `Stderr` belong to the command.
    Pipes,
    /// A terminal: the stream `Terminal` belongs to the command.
    Terminal(TerminalSize),
    /// None: input is empty, output goes to the machine's stdio log, and the command outlives
    /// the stream it was asked for on.
    Detached,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// What the host says of a running command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CommandControl {
    /// Deliver this Linux signal number to the command's process group.
    Signal(i32),
    /// The terminal has a new size.
    Resize(TerminalSize),
}

/// What the agent says of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CommandEvent {
    /// It runs.
    Started,
    /// It ended; all that it wrote is on its streams by now.
    Exited(ExitStatus),
    /// It could not be started.
    Failed {
        /// What was being done and what went wrong, a sentence.
        message: String,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl ExitStatus {
    /// The status as a shell counts it: a code as it is, a signal as 128 + its number.
    pub fn shell_code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ExitStatus;

    #[test]
    fn signals_count_from_128() {
        assert_eq!(ExitStatus::Code(255).shell_code(), 255);
        assert_eq!(ExitStatus::Signal(9).shell_code(), 137);
    }
}
