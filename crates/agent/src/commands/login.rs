//! As whom, where, and with what environment a command runs.

use std::{io, os::fd::OwnedFd};

use container_protocol::{CommandLine, CommandRequest, UserReference, WorkingDirectory};

use super::copy;
use crate::machine::{GuestRoot, Passwd, PasswdEntry};

/// The search path of every command, as Debian's login gives it to root and everyone may use.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a request cannot be turned into a process.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The guest's account files or directories cannot be read.
    #[error("reading the machine's account files: {0}")]
    Accounts(#[source] io::Error),
    /// There is no such user.
    #[error("the machine has no user named {0}: see /etc/passwd in the machine, or give a user id")]
    NoUser(String),
    /// The directory that was asked for is not there.
    #[error("the working directory {path} cannot be used in the machine: {source}")]
    Directory {
        /// The directory.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

/// A request, resolved against the guest's own files.
#[derive(Debug)]
pub struct Login {
    /// The program to execute: the shell, most often.
    pub program: String,
    /// Its arguments, the zeroth included.
    pub arguments: Vec<String>,
    /// All of its environment.
    pub environment: Vec<(String, String)>,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Where it starts, if it may enter it.
    pub directory: OwnedFd,
    /// Whether it is an error when it may not.
    pub directory_required: bool,
}

impl Login {
    /// Looks the user, shell and directory up.
    pub fn resolve(request: &CommandRequest) -> Result<Login, LoginError> {
        let root = GuestRoot::open().map_err(LoginError::Accounts)?;
        let passwd = Passwd::read(&root).map_err(LoginError::Accounts)?;
        let (uid, user) = find_user(&passwd, &request.identity.user)?;
        let shell = passwd.shell_of(user, &root);
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
            .ok_or_else(|| LoginError::NoUser(name.clone())),
    }
}

/// The program and its arguments. A login's zeroth argument starts with a hyphen: that is how a
/// shell knows.
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
        ("PATH", PATH),
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
                .map_err(|source| LoginError::Directory {
                    path: path.clone(),
                    source,
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
        source: last.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_told_by_its_zeroth_argument() {
        let arguments = |shell: &str, line| command(shell.to_owned(), &line).1;
        assert_eq!(arguments("/bin/bash", CommandLine::Login), ["-bash"]);
        let line = CommandLine::Shell("exit 42".to_owned());
        assert_eq!(arguments("/bin/sh", line), ["sh", "-c", "exit 42"]);
    }

    #[test]
    fn the_callers_environment_wins() {
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
