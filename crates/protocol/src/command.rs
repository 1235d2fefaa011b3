//! Commands in the machine.

use serde::{Deserialize, Serialize};

/// A command to run; the first message on [`Port::Command`](crate::Port::Command).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandRequest {
    /// The program to run.
    pub command: CommandLine,
    /// The user and groups to run it as.
    pub identity: Identity,
    /// Variables in addition to the login environment (PATH, HOME, USER, SHELL …).
    pub environment: Vec<(String, String)>,
    /// The directory to run it in.
    pub working_directory: WorkingDirectory,
    /// The kind of its standard streams.
    pub stdio: Stdio,
}

/// The program that a command runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CommandLine {
    /// The user's login shell, as a login shell.
    Login,
    /// The user's login shell with `-c` and this line.
    Shell(String),
    /// The guest's half of a copy, by the agent's own program with the user's rights.
    Copy(GuestCopy),
}

/// The guest's half of a copy between host and machine. Paths are relative to the working
/// directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GuestCopy {
    /// Writes a file or directory to standard output, as a tar stream.
    Out {
        /// Path of the file or directory.
        path: String,
        /// Whether names in the stream start with its own name, as with `tar -c`.
        named: bool,
    },
    /// Reads the copy of a file or directory from standard input.
    In {
        /// Path of the destination.
        path: String,
        /// Name of the copy in an existing directory; absent to copy a directory's contents.
        name: Option<String>,
    },
    /// Unpacks the tar stream on standard input.
    InTar {
        /// Path of the directory to unpack into.
        path: String,
    },
}

/// User and groups of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// User that the command runs as.
    pub user: UserReference,
    /// The primary group; the user's own if absent.
    pub group: Option<u32>,
    /// Groups in addition to the user's own.
    pub supplementary_groups: Vec<u32>,
}

/// A user of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UserReference {
    /// Name, which must be in the guest's /etc/passwd.
    Name(String),
    /// User id, which may be unknown to the guest.
    Id(u32),
}

/// Working directory of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkingDirectory {
    /// The user's home directory, or `/` if it is missing.
    Home,
    /// This directory if it exists, else the same as `Home`.
    Preferred(String),
    /// This directory; it is an error if it does not exist.
    Exact(String),
}

/// Kind of a command's standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stdio {
    /// Pipes, with the streams `Stdin`, `Stdout` and `Stderr`.
    Pipes,
    /// A terminal of this initial size, with the stream `Terminal`.
    Terminal(TerminalSize),
    /// No streams: input is empty, output goes to the machine's stdio log, and the command outlives
    /// its control stream.
    Detached,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Number of lines.
    pub rows: u16,
    /// Number of characters per line.
    pub columns: u16,
}

/// Request of the host for a running command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CommandControl {
    /// Deliver this Linux signal number to the command's process group.
    Signal(i32),
    /// The terminal has a new size.
    Resize(TerminalSize),
}

/// Event of a command, sent by the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CommandEvent {
    /// The command's program is being executed. This is the first event, unless the start fails.
    Started,
    /// The command has ended, and all of its output has been sent on its streams.
    Exited(ExitStatus),
    /// The command could not be started.
    Failed {
        /// Message with the attempted step and its error.
        message: String,
    },
}

/// Exit status of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// It was ended by this signal.
    Signal(u8),
}

impl ExitStatus {
    /// Returns the exit code that a shell reports: 128 + the number for a signal.
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
    fn signals_start_at_128() {
        assert_eq!(ExitStatus::Code(255).shell_code(), 255);
        assert_eq!(ExitStatus::Signal(9).shell_code(), 137);
    }
}
