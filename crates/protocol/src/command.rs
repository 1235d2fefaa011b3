//! Commands in the machine.

use serde::{Deserialize, Serialize};

use crate::{os_text::OsText, ssh::SshServer};

/// A command to run; the first message on [`Port::Command`](crate::Port::Command).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandRequest {
    /// The program to run.
    pub command: CommandLine,
    /// The user and groups to run it as.
    pub identity: Identity,
    /// Variables in addition to the login environment (PATH, HOME, USER, SHELL …). The last one of
    /// a name counts.
    pub environment: Vec<(OsText, OsText)>,
    /// The variables among them that the machine may adapt.
    #[serde(default)]
    pub handed_on: HandedOn,
    /// The directory to run it in.
    pub working_directory: WorkingDirectory,
    /// The kind of its standard streams.
    pub stdio: Stdio,
    /// The point of the boot that it waits for.
    #[serde(default)]
    pub start: Start,
}

/// Point of a machine's boot from which a command may run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Start {
    /// Nothing of the boot removes or hides what the command writes, and the user's session is
    /// open.
    #[default]
    Settled,
    /// The services that init starts at a boot have been started too.
    Services,
    /// The machine's init has been started.
    Immediate,
}

/// The program that a command runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CommandLine {
    /// The user's login shell, as a login shell.
    Login,
    /// The user's login shell with `-c` and this line.
    Shell(OsText),
    /// This program and its arguments, without a shell. The first element is the program, which is
    /// searched in the command's `PATH`.
    Program(Vec<OsText>),
    /// The guest's half of a copy, by the agent's own program with the user's rights.
    Copy(GuestCopy),
    /// An SSH server with the user's rights, for one connection.
    Ssh(SshServer),
}

/// Variables that a command gets because its caller has them, and what the machine needs to adapt
/// them to what it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HandedOn {
    /// Names of the variables that were not requested for this command: `LANG`, `LC_*`, `TERM`,
    /// `TZ`.
    pub names: Vec<String>,
    /// Compiled terminfo entry of the terminal `TERM` (term(5)); absent if the host has none.
    #[serde(with = "crate::base64")]
    pub terminfo: Option<Vec<u8>>,
    /// `TZ` as a rule that needs no time zone database, such as `JST-9`; absent if it is unknown.
    pub time_zone_rule: Option<String>,
}

/// The guest's half of a copy between host and machine. Paths are relative to the working
/// directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GuestCopy {
    /// Writes a file or directory to standard output, as a tar stream.
    Out {
        /// Path of the file or directory.
        path: OsText,
        /// Whether names in the stream start with its own name, as with `tar -c`.
        named: bool,
    },
    /// Reads the copy of a file or directory from standard input.
    In {
        /// Path of the destination.
        path: OsText,
        /// Name of the copy in an existing directory; absent to copy a directory's contents.
        name: Option<OsText>,
    },
    /// Unpacks the tar stream on standard input.
    InTar {
        /// Path of the directory to unpack into.
        path: OsText,
    },
}

/// User and groups of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// User that the command runs as.
    pub user: UserReference,
    /// The primary group; the user's own if absent.
    pub group: Option<GroupReference>,
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

/// A group of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GroupReference {
    /// Group id, which may be unknown to the guest.
    Id(u32),
    /// Name, which must be in the guest's /etc/group.
    Name(String),
}

/// Working directory of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkingDirectory {
    /// The user's home directory, or `/` if it is missing.
    Home,
    /// This directory if the user can enter it, else the same as `Home`.
    Preferred(OsText),
    /// This directory; it is an error if the user cannot enter it.
    Exact(OsText),
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
    /// Something that the user should know about the start. Precedes `Started`.
    Note {
        /// One sentence.
        message: String,
    },
    /// The command's program is being executed.
    Started,
    /// The command has ended, and all of its output has been sent on its streams.
    Exited(ExitStatus),
    /// The command could not be started.
    Failed {
        /// Message with the attempted step and its error.
        message: String,
        /// Kind of the failure.
        #[serde(default)]
        reason: StartFailure,
    },
}

/// Kind of a failure to start a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StartFailure {
    /// A step before the program was executed failed.
    #[default]
    Preparation,
    /// The program was not found.
    NotFound,
    /// The program was found and could not be executed.
    NotExecutable,
}

impl StartFailure {
    /// Returns the exit code that docker and shells use: 127, 126, and 125 for a failed
    /// preparation.
    pub fn exit_code(self) -> u8 {
        match self {
            StartFailure::Preparation => 125,
            StartFailure::NotExecutable => 126,
            StartFailure::NotFound => 127,
        }
    }
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
    use serde_json::json;

    use super::*;

    /// A machine may still run the agent of an older build.
    #[test]
    fn a_request_has_the_form_of_older_builds() {
        let older = json!({
            "command": {"shell": "echo ä"},
            "identity": {"user": {"id": 1000}, "group": 5, "supplementaryGroups": []},
            "environment": [["A", "b"]],
            "workingDirectory": {"preferred": "/home/ada"},
            "stdio": "pipes",
        });
        let request: CommandRequest = serde_json::from_value(older.clone()).unwrap();
        assert_eq!(request.identity.group, Some(GroupReference::Id(5)));
        let mut written = serde_json::to_value(request).unwrap();
        written.as_object_mut().unwrap().remove("handedOn");
        written.as_object_mut().unwrap().remove("start");
        assert_eq!(written, older);
        let failed = json!({"failed": {"message": "no"}});
        let failed: CommandEvent = serde_json::from_value(failed).unwrap();
        let CommandEvent::Failed { reason, .. } = failed else {
            panic!("{failed:?}");
        };
        assert_eq!(reason.exit_code(), 125);
    }

    #[test]
    fn signals_start_at_128() {
        assert_eq!(ExitStatus::Code(255).shell_code(), 255);
        assert_eq!(ExitStatus::Signal(9).shell_code(), 137);
    }
}
