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

use super::{
    boot::{boot, start_command},
    target::one_or_default,
};
use crate::{
    attach::{attach, terminal_size},
    failure::Failure,
    output,
    values::{self, Variable},
};

/// First value that is not a user or group id: to the kernel it means "unchanged" (setresuid(2)).
const ID_END: i64 = u32::MAX as i64;

/// Environment variables that every command gets with their value on the host.
const PROXY_VARIABLES: [&str; 10] = [
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

/// Run a command or a shell in a machine.
///
/// A stopped machine is booted first. The command runs as your user, in the current directory if
/// the machine shares it. The command and its arguments are joined with spaces and passed to your
/// login shell in the machine, so `run echo '$HOME'` prints the home directory there. All arguments
/// after the command belong to it. The exit code is that of the command.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine run
  container machine run -n dev -- make -j4
  container machine run -n dev --root apt-get install -y git
  container machine run -n dev -e DEBUG=1 -w /srv ./server
  container machine run -n dev -d -- ./long-job.sh")]
pub(crate) struct Run {
    /// Machine; default: the default machine.
    #[arg(short, long)]
    name: Option<MachineId>,

    /// Run the command in the background and print the machine's id.
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,

    /// Run as root.
    #[arg(long)]
    root: bool,

    /// Environment variable; KEY alone copies the host's value.
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = values::variable)]
    env: Vec<Variable>,

    /// File with environment variables, one per line.
    ///
    /// A line is KEY=VALUE, or KEY to copy the host's value, optionally after `export`. Lines that
    /// begin with # are ignored. Values are used unchanged, including quotes.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// User to run as: NAME, or UID[:GID].
    #[arg(short, long, conflicts_with_all = ["root", "uid"], value_parser = values::user)]
    user: Option<(UserReference, Option<u32>)>,

    /// User id to run as.
    #[arg(long, conflicts_with = "root", value_parser = value_parser!(u32).range(..ID_END), allow_negative_numbers = true)]
    uid: Option<u32>,

    /// Group id to run with; with --root, in addition to root's groups.
    #[arg(long, value_parser = value_parser!(u32).range(..ID_END), allow_negative_numbers = true)]
    gid: Option<u32>,

    /// No effect: standard input is always open. Accepted for compatibility with other programs.
    #[arg(short, long)]
    interactive: bool,

    /// Run the command on a terminal.
    #[arg(short, long)]
    tty: bool,

    /// Working directory; default: the current directory if the machine shares it, else the home
    /// directory.
    #[arg(short, long, visible_alias = "cwd", value_name = "DIR", value_parser = values::directory)]
    workdir: Option<String>,

    /// Command; default: your login shell.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Run {
    /// Runs the command. Returns its exit code.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let environment = self.environment()?;
        let identity = self.identity()?;
        if self.detach && self.command.is_empty() {
            return Err(Failure::new("--detach requires a command"));
        }
        let id = one_or_default(client, self.name.clone()).await?;
        let mut running = boot(client, &id).await?;
        let request = CommandRequest {
            command: if self.command.is_empty() {
                CommandLine::Login
            } else {
                CommandLine::Shell(self.command.join(" "))
            },
            identity: identity.unwrap_or_else(|| machine_user(&running)),
            environment: with_machine_id(environment, &id),
            working_directory: self.working_directory(&running)?,
            stdio: self.stdio(),
        };
        let agent = ssh_agent();
        let (command, streams) = start_command(client, &id, &mut running, &request, agent).await?;
        if self.detach {
            output::line(id)?;
            return Ok(0);
        }
        let status = attach(command, streams).await?;
        if status != ExitStatus::Code(0) && !exec::is_running(&running.socket).await {
            output::note(&format!(
                "Machine {id} stopped while the command was running."
            ));
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

    /// Returns the requested user and group, or nothing for the machine's own user.
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
                    "cannot use a group in --user together with --gid",
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
        let mut environment: Vec<(String, String)> = PROXY_VARIABLES
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
                .map_err(Failure::cannot(format!("read {}", file.display())))?;
            let read = values::variables(&text).map_err(|error| {
                Failure::new(format!("cannot read {}, {error}", file.display()))
            })?;
            environment.extend(read.iter().filter_map(resolve_variable));
        }
        environment.extend(self.env.iter().filter_map(resolve_variable));
        Ok(environment)
    }

    fn working_directory(&self, running: &Running) -> Result<WorkingDirectory, Failure> {
        let here = running
            .shared_home
            .as_deref()
            .and_then(current_directory_in);
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Ok(match (&self.workdir, here) {
            (Some(directory), _) if Path::new(directory).is_absolute() => {
                WorkingDirectory::Exact(directory.clone())
            }
            (Some(directory), Some(here)) => WorkingDirectory::Exact(text(here.join(directory))),
            (Some(directory), None) => {
                return Err(Failure::new(format!(
                    "cannot use --workdir {directory}: the machine does not share the current directory (use \
                     an absolute path)"
                )));
            }
            (None, Some(here)) => WorkingDirectory::Preferred(text(here)),
            (None, None) => WorkingDirectory::Home,
        })
    }
}

/// Returns the variable with its value, which may be the host's. Returns nothing if neither has
/// one.
fn resolve_variable(variable: &Variable) -> Option<(String, String)> {
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

fn with_machine_id(
    mut environment: Vec<(String, String)>,
    id: &MachineId,
) -> Vec<(String, String)> {
    environment.push(("CONTAINER_MACHINE_ID".to_owned(), id.to_string()));
    environment
}

/// Returns the socket of the caller's SSH agent, if there is one.
fn ssh_agent() -> Option<PathBuf> {
    let socket = env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty())?;
    std::path::absolute(socket).ok()
}

/// Returns the path of the current directory in the machine, if it is in the shared home. Either
/// path may contain symbolic links.
fn current_directory_in(home: &Path) -> Option<PathBuf> {
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
    struct ParsedRun {
        #[command(flatten)]
        run: Run,
    }

    #[test]
    fn arguments_after_the_command_belong_to_it() {
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
            let parsed = ParsedRun::try_parse_from([&["run"], typed].concat()).unwrap();
            assert_eq!(parsed.run.command, command);
        }
        let mistyped = ParsedRun::try_parse_from(["run", "--rooot", "id"]);
        assert!(mistyped.is_err());
    }
}
