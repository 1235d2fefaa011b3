//! `container machine run`

use std::{
    env, fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use clap::{Args, value_parser};
use container_api::Running;
use container_client::{Client, exec};
use container_machine::MachineId;
use container_protocol::{
    CommandLine, CommandRequest, ExitStatus, Identity, SSH_AUTH_SOCKET, Stdio, UserReference,
    WorkingDirectory,
};

use super::{boot, one_or_default, start};
use crate::{
    attach::{attach, terminal_size},
    failure::Failure,
    output,
    values::{self, Variable},
};

/// No id: the kernel means "leave it as it is" by it (setresuid(2)).
const LAST_ID: i64 = u32::MAX as i64;

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
///
/// The command runs as you, in the directory you are in if the machine shares it. It and its
/// arguments are joined with spaces and given to your login shell in the machine, so `run echo
/// '$HOME'` prints the machine's home. Everything behind the command belongs to it. The exit code
/// is the command's own.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine run
  container machine run -n dev -- make -j4
  container machine run -n dev --root apt-get install -y git
  container machine run -n dev -e DEBUG=1 -w /srv ./server
  container machine run -n dev -d -- ./long-job.sh")]
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

    /// Set an environment variable; KEY alone hands the host's on.
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = values::variable)]
    env: Vec<Variable>,

    /// Read environment variables from a file, one a line.
    ///
    /// Lines are KEY=VALUE, or KEY to hand the host's on, perhaps behind `export`; # begins a
    /// comment. Values are taken as they stand, quotes included.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Run as this user: NAME, or UID[:GID].
    #[arg(short, long, conflicts_with_all = ["root", "uid"], value_parser = values::user)]
    user: Option<(UserReference, Option<u32>)>,

    /// Run as this user id.
    #[arg(long, conflicts_with = "root", value_parser = value_parser!(u32).range(..LAST_ID), allow_negative_numbers = true)]
    uid: Option<u32>,

    /// Run with this group; with --root, in addition to root's own.
    #[arg(long, value_parser = value_parser!(u32).range(..LAST_ID), allow_negative_numbers = true)]
    gid: Option<u32>,

    /// Keep standard input open; it always is.
    #[arg(short, long)]
    interactive: bool,

    /// Give the command a terminal.
    #[arg(short, long)]
    tty: bool,

    /// Where to run it; your current directory if the machine shares it, else the home.
    #[arg(short, long, visible_alias = "cwd", value_name = "DIR", value_parser = values::directory)]
    workdir: Option<String>,

    /// The command; your login shell where it is left out.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Run {
    /// Runs the command. Returns its exit code.
    pub async fn carry_out(self, client: &Client) -> Result<u8, Failure> {
        let environment = self.environment()?;
        let identity = self.identity()?;
        if self.detach && self.command.is_empty() {
            return Err(Failure::new("--detach needs a command to leave running"));
        }
        let id = one_or_default(client, self.name.clone()).await?;
        let mut running = boot(client, &id).await?;
        let request = CommandRequest {
            command: match self.command.is_empty() {
                true => CommandLine::Login,
                false => CommandLine::Shell(self.command.join(" ")),
            },
            identity: identity.unwrap_or_else(|| machine_user(&running)),
            environment: with_machine(environment, &id),
            working_directory: self.working_directory(&running)?,
            stdio: self.stdio(),
        };
        let agent = ssh_agent();
        let (command, streams) = start(client, &id, &mut running, &request, agent).await?;
        if self.detach {
            output::line(id)?;
            return Ok(0);
        }
        let status = attach(command, streams).await?;
        if status != ExitStatus::Code(0) && !exec::goes_on(&running.socket).await {
            output::note(&format!("Machine {id} was stopped while the command ran."));
        }
        Ok(status.shell_code())
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
            (Some(user), _) => user.clone(),
            (None, Some(uid)) => (UserReference::Id(uid), None),
            (None, None) if self.gid.is_none() => return Ok(None),
            (None, None) => (UserReference::Id(rustix::process::getuid().as_raw()), None),
        };
        let mut supplementary_groups = Vec::new();
        match self.gid {
            Some(gid) if self.root => supplementary_groups.push(gid),
            Some(_) if group.is_some() => {
                return Err(Failure::new(
                    "--user and --gid both name a group: leave one out",
                ));
            }
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
            let read = values::variables(&text).map_err(|(line, reason)| {
                Failure::new(format!("{}, line {line}: {reason}", file.display()))
            })?;
            environment.extend(read.iter().filter_map(with_value));
        }
        environment.extend(self.env.iter().filter_map(with_value));
        Ok(environment)
    }

    fn working_directory(&self, running: &Running) -> Result<WorkingDirectory, Failure> {
        let here = running.shared_home.as_deref().and_then(in_shared_home);
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Ok(match (&self.workdir, here) {
            (Some(directory), _) if Path::new(directory).is_absolute() => {
                WorkingDirectory::Exact(directory.clone())
            }
            (Some(directory), Some(here)) => WorkingDirectory::Exact(text(here.join(directory))),
            (Some(directory), None) => {
                return Err(Failure::new(format!(
                    "--workdir {directory}: the machine does not share your current directory, so \
                     give an absolute path"
                )));
            }
            (None, Some(here)) => WorkingDirectory::Preferred(text(here)),
            (None, None) => WorkingDirectory::Home,
        })
    }
}

/// The variable, with the host's value where it has none of its own, unless the host has none.
fn with_value(variable: &Variable) -> Option<(String, String)> {
    let value = variable.value.clone();
    Some((
        variable.name.clone(),
        value.or_else(|| env::var(&variable.name).ok())?,
    ))
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        run: Run,
    }

    #[test]
    fn everything_behind_the_command_belongs_to_it() {
        for (typed, command) in [
            (
                &["ls", "-la", "--name", "x"][..],
                &["ls", "-la", "--name", "x"][..],
            ),
            (&["-n", "dev", "ls", "--help"], &["ls", "--help"]),
            (&["--", "-x"], &["-x"]),
            (&["a", "--", "b"], &["a", "--", "b"]),
            (&["--root"], &[]),
        ] {
            let typed = Typed::try_parse_from([&["run"], typed].concat()).unwrap();
            assert_eq!(typed.run.command, command);
        }
        let mistyped = Typed::try_parse_from(["run", "--rooot", "id"]);
        assert!(mistyped.is_err());
    }
}
