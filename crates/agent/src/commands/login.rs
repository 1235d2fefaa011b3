//! Resolves a command's user, shell, directory and environment.

use std::{io, os::fd::OwnedFd};

use container_protocol::{CommandLine, CommandRequest, UserReference, WorkingDirectory};

use super::copy;
use crate::{
    machine::{GuestRoot, Passwd, PasswdEntry, shell},
    paths::SEARCH_PATH,
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
    /// The working directory cannot be opened.
    #[error("cannot use the working directory {path} in the machine: {cause}")]
    Directory { path: String, cause: io::Error },
}

/// Login session of a command: the request, resolved against the machine's account files and
/// directories.
#[derive(Debug)]
pub(super) struct Login {
    /// The program to execute, usually the shell.
    pub program: String,
    /// Arguments, including the zeroth.
    pub arguments: Vec<String>,
    /// Complete environment; nothing of the agent's own is inherited.
    pub environment: Vec<(String, String)>,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub directory: OwnedFd,
    /// Whether the command fails if the user may not enter the directory. Otherwise it starts in
    /// the root directory.
    pub directory_required: bool,
}

impl Login {
    /// Looks up the user, shell and directory.
    pub(super) fn resolve(request: &CommandRequest) -> Result<Login, LoginError> {
        let root = GuestRoot::open().map_err(LoginError::Accounts)?;
        let passwd = Passwd::read(&root).map_err(LoginError::Accounts)?;
        let (uid, user) = find_user(&passwd, &request.identity.user)?;
        let shell = shell::login_shell(user, &root);
        let (directory, directory_required) = open_directory(&root, request, user)?;
        let gid = request
            .identity
            .group
            .or(user.map(|user| user.gid))
            .unwrap_or(uid);
        let environment = environment(&shell, uid, user, &request.environment);
        let (program, arguments) = command(shell, &request.command);
        Ok(Login {
            arguments,
            environment,
            program,
            uid,
            gid,
            groups: groups(&passwd, user, gid, &request.identity.supplementary_groups),
            directory,
            directory_required,
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

/// Returns the program and its arguments. A hyphen before the zeroth argument makes a shell a login
/// shell.
fn command(shell: String, command: &CommandLine) -> (String, Vec<String>) {
    let name = shell.rsplit('/').next().unwrap_or(&shell).to_owned();
    match command {
        CommandLine::Login => (shell, vec![format!("-{name}")]),
        CommandLine::Shell(line) => (shell, vec![name, "-c".to_owned(), line.clone()]),
        CommandLine::Copy(half) => copy::command(half),
    }
}

fn environment(
    shell: &str,
    uid: u32,
    user: Option<&PasswdEntry>,
    wanted: &[(String, String)],
) -> Vec<(String, String)> {
    let name = user.map_or_else(|| uid.to_string(), |user| user.name.clone());
    let home = user.map_or("/", |user| user.home.as_str());
    let mut environment: Vec<(String, String)> = [
        ("PATH", SEARCH_PATH),
        ("HOME", home),
        ("USER", &name),
        ("LOGNAME", &name),
        ("SHELL", shell),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    for (key, value) in wanted {
        environment.retain(|(other, _)| other != key);
        environment.push((key.clone(), value.clone()));
    }
    environment
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

/// Opens the working directory. Returns it, and whether the command requires it.
fn open_directory(
    root: &GuestRoot,
    request: &CommandRequest,
    user: Option<&PasswdEntry>,
) -> Result<(OwnedFd, bool), LoginError> {
    let home = user.map_or("/", |user| user.home.as_str());
    let choices = match &request.working_directory {
        WorkingDirectory::Exact(path) => {
            let directory = root.directory(path);
            return directory
                .map(|directory| (directory, true))
                .map_err(|cause| LoginError::Directory {
                    path: path.clone(),
                    cause,
                });
        }
        WorkingDirectory::Preferred(path) => [path, home, "/"],
        WorkingDirectory::Home => [home, "/", "/"],
    };
    let mut last = None;
    for path in choices {
        match root.directory(path) {
            Ok(directory) => return Ok((directory, false)),
            Err(error) => last = Some(error),
        }
    }
    Err(LoginError::Directory {
        path: "/".to_owned(),
        cause: last.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_shell_has_a_hyphen_before_its_zeroth_argument() {
        let arguments = |shell: &str, line| command(shell.to_owned(), &line).1;
        assert_eq!(arguments("/bin/bash", CommandLine::Login), ["-bash"]);
        let line = CommandLine::Shell("exit 42".to_owned());
        assert_eq!(arguments("/bin/sh", line), ["sh", "-c", "exit 42"]);
    }

    #[test]
    fn requested_environment_takes_precedence() {
        let wanted = [
            ("PATH".to_owned(), "/x".to_owned()),
            ("A".to_owned(), String::new()),
        ];
        let environment = environment("/bin/sh", 7, None, &wanted);
        let get = |key: &str| {
            environment
                .iter()
                .filter(|(other, _)| other == key)
                .map(|(_, value)| value.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(get("PATH"), ["/x"]);
        assert_eq!(get("A"), [""]);
        assert_eq!(get("USER"), ["7"]);
    }
}
