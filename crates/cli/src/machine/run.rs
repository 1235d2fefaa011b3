//! `container machine run`

use std::{
    env, fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use clap::Args;
use container_api::Running;
use container_client::{Client, exec};
use container_machine::MachineId;
use container_protocol::{
    CommandLine, CommandRequest, Identity, SSH_AUTH_SOCKET, Stdio, UserReference, WorkingDirectory,
};

use super::{boot, one_or_default};
use crate::{
    attach::{attach, terminal_size},
    failure::Failure,
    output,
};

/// Handed on to the machine as they are on the host.
const HANDED_ON: [&str; 10] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Run a command in a machine, or a shell; boots it first if it is stopped.
#[derive(Debug, Args)]
#[command(
    after_help = "The command and its arguments are joined with spaces and given to your login shell in the machine, so\n`run echo '$HOME'` prints the machine's home. Everything behind the command belongs to it.\n\nExamples:\n  container machine run -n dev\n  container machine run -n dev -- make -j4\n  container machine run -n dev --root apt-get install -y git"
)]
pub struct Run {
    /// The machine; the default one where it is left out.
    #[arg(short, long)]
    name: Option<MachineId>,

    /// Leave the command running and print the machine's id.
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,

    /// Run as root.
    #[arg(long)]
    root: bool,

    /// Set an environment variable, KEY=VALUE, or KEY to hand the host's on.
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,

    /// Read environment variables from a file: KEY=VALUE a line, # for comments.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Run as this user: NAME, or UID[:GID].
    #[arg(short, long, conflicts_with_all = ["root", "uid"])]
    user: Option<String>,

    /// Run as this user id.
    #[arg(long, conflicts_with = "root")]
    uid: Option<u32>,

    /// Run with this group; with --root, in addition to root's own.
    #[arg(long)]
    gid: Option<u32>,

    /// Keep standard input open; it always is.
    #[arg(short, long)]
    interactive: bool,

    /// Give the command a terminal.
    #[arg(short, long)]
    tty: bool,

    /// Where to run it; your current directory if the machine shares it.
    #[arg(short, long, visible_alias = "cwd", value_name = "DIR")]
    workdir: Option<String>,

    /// The command; your login shell where it is left out.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

impl Run {
    /// Runs the command. Returns its exit code.
    pub async fn carry_out(self, client: &Client) -> Result<u8, Failure> {
        let environment = self.environment()?;
        let identity = self.identity()?;
        let id = one_or_default(client, self.name.clone()).await?;
        let running = boot(client, &id).await?;
        let request = CommandRequest {
            command: match self.command.is_empty() {
                true => CommandLine::Login,
                false => CommandLine::Shell(self.command.join(" ")),
            },
            identity: identity.unwrap_or_else(|| machine_user(&running)),
            environment: with_machine(environment, &id),
            working_directory: self.working_directory(&running),
            stdio: self.stdio(),
        };
        if let Some(agent) = ssh_agent() {
            exec::use_ssh_agent(&running.socket, agent).await?;
        }
        let (command, streams) = exec::start(&running.socket, &request).await?;
        if self.detach {
            output::line(id)?;
            return Ok(0);
        }
        Ok(attach(command, streams).await?.shell_code())
    }

    fn stdio(&self) -> Stdio {
        let is_shell_on_terminal =
            self.command.is_empty() && io::stdin().is_terminal() && io::stdout().is_terminal();
        if self.detach {
            Stdio::Detached
        } else if self.tty || is_shell_on_terminal {
            Stdio::Terminal(terminal_size())
        } else {
            Stdio::Pipes
        }
    }

    /// What was asked for; none means the machine's own user.
    fn identity(&self) -> Result<Option<Identity>, Failure> {
        let (user, mut group) = match (&self.user, self.uid) {
            _ if self.root => (UserReference::Id(0), None),
            (Some(user), _) => user_and_group(user)?,
            (None, Some(uid)) => (UserReference::Id(uid), None),
            (None, None) if self.gid.is_none() => return Ok(None),
            (None, None) => (UserReference::Id(rustix::process::getuid().as_raw()), None),
        };
        let mut supplementary_groups = Vec::new();
        match self.gid {
            Some(gid) if self.root => supplementary_groups.push(gid),
            Some(gid) => group = Some(gid),
            None => {}
        }
        Ok(Some(Identity {
            user,
            group,
            supplementary_groups,
        }))
    }

    fn environment(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut environment: Vec<(String, String)> = HANDED_ON
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), env::var(name).ok()?)))
            .collect();
        if ssh_agent().is_some() {
            environment.push(("SSH_AUTH_SOCK".to_owned(), SSH_AUTH_SOCKET.to_owned()));
        }
        if let Ok(term) = env::var("TERM") {
            environment.push(("TERM".to_owned(), term));
        }
        for file in &self.env_file {
            let text = fs::read_to_string(file)
                .map_err(|error| Failure::new(format!("reading {}: {error}", file.display())))?;
            let lines = text.lines().map(str::trim);
            for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
                environment.extend(variable(line)?);
            }
        }
        for word in &self.env {
            environment.extend(variable(word)?);
        }
        Ok(environment)
    }

    fn working_directory(&self, running: &Running) -> WorkingDirectory {
        if let Some(directory) = &self.workdir {
            return WorkingDirectory::Exact(directory.clone());
        }
        let shared = running.shared_home.as_deref().and_then(in_shared_home);
        shared.map_or(WorkingDirectory::Home, |path| {
            WorkingDirectory::Preferred(path.to_string_lossy().into_owned())
        })
    }
}

fn machine_user(running: &Running) -> Identity {
    Identity {
        user: UserReference::Id(running.user.uid),
        group: None,
        supplementary_groups: vec![],
    }
}

fn with_machine(mut environment: Vec<(String, String)>, id: &MachineId) -> Vec<(String, String)> {
    environment.push(("CONTAINER_MACHINE_ID".to_owned(), id.to_string()));
    environment
}

/// The socket of the caller's SSH agent, where there is one.
fn ssh_agent() -> Option<PathBuf> {
    let socket = env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty())?;
    std::path::absolute(socket).ok()
}

/// The current directory as the machine sees it, if it is in the shared home. Either may be
/// reached through a link.
fn in_shared_home(home: &Path) -> Option<PathBuf> {
    let here = env::current_dir().ok()?;
    if here.starts_with(home) {
        return Some(here);
    }
    let below = here
        .strip_prefix(fs::canonicalize(home).ok()?)
        .ok()?
        .to_owned();
    Some(home.join(below))
}

fn user_and_group(word: &str) -> Result<(UserReference, Option<u32>), Failure> {
    let (user, group) = match word.split_once(':') {
        Some((user, group)) => {
            let invalid = |_| Failure::new(format!("--user {word}: {group:?} is not a group id"));
            (user, Some(group.parse().map_err(invalid)?))
        }
        None => (word, None),
    };
    let user = match user.parse() {
        Ok(uid) => UserReference::Id(uid),
        Err(_) => UserReference::Name(user.to_owned()),
    };
    Ok((user, group))
}

/// `KEY=VALUE`, or `KEY` with the host's value, or nothing where the host has none.
fn variable(word: &str) -> Result<Option<(String, String)>, Failure> {
    let (key, value) = match word.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (word, env::var(word).ok()),
    };
    if key.is_empty() {
        return Err(Failure::new(format!(
            "{word:?} names no environment variable"
        )));
    }
    Ok(value.map(|value| (key.to_owned(), value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers() {
        let of = |word| user_and_group(word).unwrap();
        assert_eq!(of("ann"), (UserReference::Name("ann".into()), None));
        assert_eq!(of("7"), (UserReference::Id(7), None));
        assert_eq!(of("7:8"), (UserReference::Id(7), Some(8)));
        assert!(user_and_group("7:x").is_err());
    }

    #[test]
    fn variables_are_set_or_handed_on() {
        assert_eq!(variable("A=b=c").unwrap(), Some(("A".into(), "b=c".into())));
        assert_eq!(variable("A=").unwrap(), Some(("A".into(), String::new())));
        assert_eq!(variable("SURELY_NOT_SET_ANYWHERE").unwrap(), None);
        assert!(variable("=x").is_err());
    }
}
