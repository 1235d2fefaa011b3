//! Resolves a command's user, program, directories, environment and limits.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use container_protocol::{
    CommandLine, CommandRequest, GroupReference, OsText, UserReference, WorkingDirectory,
};

use super::{
    copy,
    environment::{Account, Environment, KnownToMachine},
    limits::{LimitedUser, Limits},
    locale::Locales,
    long_line,
};
use crate::{
    init::InitProcess,
    machine::{GuestRoot, Passwd, PasswdEntry, shell},
};

/// Error of resolving a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    /// `/etc/passwd` or `/etc/group` cannot be read.
    #[error("cannot read the machine's account files: {0}")]
    Accounts(io::Error),
    /// The machine has no user with the requested name.
    #[error("user {0} not found in the machine (see /etc/passwd in the machine, or use a user id)")]
    UserNotFound(String),
    /// The machine has no group with the requested name.
    #[error(
        "group {0} not found in the machine (see /etc/group in the machine, or use a group id)"
    )]
    GroupNotFound(String),
    /// A name contains a NUL character.
    #[error("cannot use {0:?}: it contains a NUL character")]
    Nul(OsString),
    /// A line that is too long for an argument cannot be passed on.
    #[error("cannot pass a long command line to the shell: {0}")]
    LongLine(io::Error),
}

/// A program and its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Its path, or its name, which is searched in the command's `PATH`.
    pub path: OsString,
    /// Arguments, including the zeroth.
    pub arguments: Vec<OsString>,
    /// Whether it is a login shell, whose path the environment has as `SHELL`.
    pub is_shell: bool,
}

/// Login session of a command: the request, resolved against the machine's account files and
/// directories.
#[derive(Debug)]
pub(super) struct Login {
    /// The program to execute, usually the shell, and shells to fall back to.
    pub programs: Vec<Program>,
    /// File that stays open in the command: its line, if it is too long for an argument.
    pub line: Option<OwnedFd>,
    /// Complete environment; nothing of the agent's own is inherited.
    pub environment: Environment,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Paths in the machine. The command starts in the first that the user can enter.
    pub directories: Vec<CString>,
    /// Whether the first directory was requested. It is an error if the user cannot enter it, and a
    /// note for another one that is not the first.
    pub directory: Preference,
    pub limits: Limits,
}

/// Strength of the wish for the first directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preference {
    Required,
    Preferred,
    /// It is only the home directory. Some accounts have none.
    None,
}

impl Login {
    /// Looks up the user, shell, environment and limits.
    pub(super) fn resolve(
        request: &CommandRequest,
        init: &InitProcess,
    ) -> Result<Login, LoginError> {
        let root = GuestRoot::open().map_err(LoginError::Accounts)?;
        // Fails if init has just ended.
        let running = GuestRoot::of_process(init.pid).ok();
        let passwd = Passwd::read(&root).map_err(LoginError::Accounts)?;
        let (uid, user) = find_user(&passwd, &request.identity.user)?;
        let group = find_group(&passwd, request.identity.group.as_ref())?;
        let gid = group.or(user.map(|user| user.gid)).unwrap_or(uid);
        let groups = groups(&passwd, user, gid, &request.identity.supplementary_groups);

        let name = user.map_or_else(|| uid.to_string(), |user| user.name.clone());
        let home = user.map_or("/", |user| user.home.as_str());
        let shells = shell::login_shells(user, &root);
        let account = Account {
            name: &name,
            home,
            shell: shells.first().map_or("/bin/sh", String::as_str),
        };
        let mut environment = Environment::new(&root, &init.environment, account);
        let known = KnownToMachine {
            root: &root,
            running: running.as_ref(),
            locales: Locales::new(&root),
        };
        environment.add(&request.environment, &request.handed_on, &known);
        environment.complete(request.stdio);

        let (directories, directory) = directories(&request.working_directory, home)?;
        let line = match &request.command {
            CommandLine::Shell(line) => long_line::file(line.as_os_str()),
            _ => Ok(None),
        };
        let line = line.map_err(LoginError::LongLine)?;
        let named_groups: Vec<(u32, String)> = groups
            .iter()
            .flat_map(|gid| {
                passwd
                    .names_of_group(*gid)
                    .map(|name| (*gid, name.to_owned()))
            })
            .collect();
        let limited = LimitedUser {
            name: &name,
            uid,
            groups: &named_groups,
        };
        Ok(Login {
            programs: programs(shells, &request.command, line.as_ref()),
            line,
            environment,
            uid,
            gid,
            groups,
            directories,
            directory,
            limits: Limits::new(&root, &init.program, limited),
        })
    }
}

fn find_user<'a>(
    passwd: &'a Passwd,
    wanted: &UserReference,
) -> Result<(u32, Option<&'a PasswdEntry>), LoginError> {
    match wanted {
        UserReference::Id(uid) => Ok((*uid, passwd.by_uid(*uid))),
        UserReference::Name(name) => passwd
            .by_name(name)
            .map(|user| (user.uid, Some(user)))
            .ok_or_else(|| LoginError::UserNotFound(name.clone())),
    }
}

fn find_group(passwd: &Passwd, wanted: Option<&GroupReference>) -> Result<Option<u32>, LoginError> {
    match wanted {
        None => Ok(None),
        Some(GroupReference::Id(gid)) => Ok(Some(*gid)),
        Some(GroupReference::Name(name)) => match passwd.group(name) {
            Some(gid) => Ok(Some(gid)),
            None => Err(LoginError::GroupNotFound(name.clone())),
        },
    }
}

/// Returns the program and, if that is a shell, the shells to fall back to.
fn programs(shells: Vec<String>, command: &CommandLine, line: Option<&OwnedFd>) -> Vec<Program> {
    let with_shell = |shell: String| {
        let name = shell.rsplit('/').next().unwrap_or(&shell);
        let arguments = match command {
            // A hyphen before the zeroth argument makes a shell a login shell.
            CommandLine::Login => vec![format!("-{name}").into()],
            CommandLine::Shell(text) => {
                let text = match line {
                    Some(file) => long_line::command(name, file),
                    None => text.as_os_str().to_owned(),
                };
                vec![name.into(), "-c".into(), text]
            }
            CommandLine::Program(_) | CommandLine::Copy(_) | CommandLine::Ssh(_) => vec![],
        };
        Program {
            path: shell.into(),
            arguments,
            is_shell: true,
        }
    };
    match command {
        CommandLine::Login | CommandLine::Shell(_) => shells.into_iter().map(with_shell).collect(),
        CommandLine::Program(words) => {
            let words = words.iter().cloned().map(OsText::into_os_string);
            let arguments: Vec<OsString> = words.collect();
            vec![Program {
                path: arguments.first().cloned().unwrap_or_default(),
                arguments,
                is_shell: false,
            }]
        }
        CommandLine::Copy(half) => {
            let (path, arguments) = copy::command(half);
            vec![Program {
                path: path.into(),
                arguments: arguments.into_iter().map(Into::into).collect(),
                is_shell: false,
            }]
        }
        // Added when its files exist.
        CommandLine::Ssh(_) => vec![],
    }
}

fn groups(passwd: &Passwd, user: Option<&PasswdEntry>, gid: u32, more: &[u32]) -> Vec<u32> {
    let mut groups = vec![gid];
    groups.extend(
        user.into_iter()
            .flat_map(|user| passwd.groups_of(&user.name)),
    );
    groups.extend(more);
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Returns the directories to try, and how much the first is wanted.
fn directories(
    wanted: &WorkingDirectory,
    home: &str,
) -> Result<(Vec<CString>, Preference), LoginError> {
    let path =
        |path: &OsStr| CString::new(path.as_bytes()).map_err(|_| LoginError::Nul(path.to_owned()));
    let home = path(OsStr::new(home))?;
    Ok(match wanted {
        WorkingDirectory::Exact(wanted) => (vec![path(wanted.as_os_str())?], Preference::Required),
        WorkingDirectory::Preferred(wanted) => (
            vec![path(wanted.as_os_str())?, home, c"/".to_owned()],
            Preference::Preferred,
        ),
        WorkingDirectory::Home => (vec![home, c"/".to_owned()], Preference::None),
    })
}

/// Returns a path for messages.
pub(super) fn shown(path: &CString) -> String {
    let path = OsString::from_vec(path.as_bytes().to_vec());
    Path::new(&path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_shell_has_a_hyphen_before_its_zeroth_argument() {
        let arguments = |shell: &str, line| {
            let mut programs = programs(vec![shell.to_owned()], &line, None);
            programs.remove(0).arguments
        };
        assert_eq!(arguments("/bin/bash", CommandLine::Login), ["-bash"]);
        let line = CommandLine::Shell("exit 42".into());
        assert_eq!(arguments("/bin/sh", line), ["sh", "-c", "exit 42"]);
        let words = CommandLine::Program(vec!["printf".into(), "a  b".into()]);
        assert_eq!(arguments("/bin/sh", words), ["printf", "a  b"]);
    }
}
