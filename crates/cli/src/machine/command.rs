//! Options and start of commands in a machine, for `run` and `exec`.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, IsTerminal},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use clap::{Args, builder::OsStringValueParser, builder::TypedValueParser, value_parser};
use container_api::Running;
use container_client::{Client, exec};
use container_machine::{MachineId, Mount};
use container_protocol::{
    CommandLine, CommandRequest, ExitStatus, GroupReference, Identity, Start, Stdio, UserReference,
    WorkingDirectory,
};

use super::{
    boot::{StartedCommand, boot, start_command},
    caller::{self, CallerVariables},
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

/// Options of a command.
#[derive(Debug, Args)]
pub(super) struct CommandOptions {
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
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = OsStringValueParser::new().try_map(values::variable))]
    env: Vec<Variable>,

    /// File with environment variables, one per line.
    ///
    /// A line is KEY=VALUE, or KEY to copy the host's value, optionally after `export`. Lines that
    /// begin with # are ignored. Values are used unchanged, including quotes.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// User to run as: NAME or UID, optionally with :GROUP or :GID.
    #[arg(short, long, conflicts_with_all = ["root", "uid"], value_parser = values::user)]
    user: Option<(UserReference, Option<GroupReference>)>,

    /// User id to run as.
    #[arg(long, conflicts_with = "root", value_parser = value_parser!(u32).range(..ID_END), allow_negative_numbers = true)]
    uid: Option<u32>,

    /// Group id to run with; with --root, in addition to root's groups.
    #[arg(long, value_parser = value_parser!(u32).range(..ID_END), allow_negative_numbers = true)]
    gid: Option<u32>,

    /// No effect: standard input is always open. Accepted for compatibility with other programs.
    #[arg(short, long)]
    interactive: bool,

    /// Start as soon as the machine's init runs, without waiting for early boot.
    ///
    /// The boot may then remove or hide files that the command writes to /tmp or /run, services
    /// such as D-Bus may not be running, and the command belongs to no login session.
    #[arg(long)]
    no_wait: bool,

    /// Let the machine use the caller's SSH agent while the command runs, whatever config.toml
    /// says.
    #[arg(long, overrides_with = "no_ssh_agent")]
    ssh_agent: bool,

    /// Do not let the machine use the caller's SSH agent.
    #[arg(long, overrides_with = "ssh_agent")]
    no_ssh_agent: bool,

    /// Run the command on a terminal.
    #[arg(short, long)]
    tty: bool,

    /// Wait until the machine's init has started its services.
    ///
    /// With systemd, that is when `default.target` is reached, also if services have failed; with
    /// other inits, when the programs that /etc/inittab waits for have ended. After 10 minutes the
    /// command starts anyway, with a note.
    #[arg(long, conflicts_with = "no_wait")]
    wait_boot: bool,

    /// Working directory; default: the current directory if the machine shares it, else the home
    /// directory.
    #[arg(short, long, visible_alias = "cwd", value_name = "DIR", value_parser = OsStringValueParser::new().try_map(values::directory))]
    workdir: Option<PathBuf>,
}

impl CommandOptions {
    /// Boots the machine if necessary and runs the command. Returns its exit code.
    pub(super) async fn run(self, client: &Client, command: CommandLine) -> Result<u8, Failure> {
        let mut variables = self.variables()?;
        let identity = self.identity()?;
        if self.detach && command == CommandLine::Login {
            return Err(Failure::new("--detach requires a command"));
        }
        let id = one_or_default(client, self.name.clone()).await?;
        let mut running = boot(client, &id).await?;
        if running.isolated {
            if self.ssh_agent {
                return Err(Failure::new(format!(
                    "cannot use --ssh-agent: machine {id:?} is isolated"
                )));
            }
            variables.isolate();
        }
        let agent = caller::offered_agent(running.ssh_agent, self.requests_agent());
        if agent.is_some() {
            variables.add_ssh_agent();
        }
        let (environment, handed_on) = variables.for_machine(&id);
        let request = CommandRequest {
            stdio: self.stdio(&command),
            command,
            identity: identity.unwrap_or_else(|| machine_user(&running)),
            environment,
            handed_on,
            working_directory: self.working_directory(&id, &running)?,
            start: if self.no_wait {
                Start::Immediate
            } else if self.wait_boot {
                Start::Services
            } else {
                Start::Settled
            },
        };
        let StartedCommand {
            command,
            streams,
            ssh_agent: _agent,
        } = start_command(client, &id, &mut running, &request, agent.as_ref()).await?;
        if self.detach {
            output::line(id)?;
            return Ok(0);
        }
        let status = attach(command, streams).await?;
        for note in exec::take_notes(&running.socket).await {
            output::note(&note);
        }
        if status != ExitStatus::Code(0) && !exec::is_running(&running.socket).await {
            output::note(&format!(
                "Machine {id} stopped while the command was running."
            ));
        }
        Ok(status.shell_code())
    }

    /// Returns whether the command is to have the caller's SSH agent, if an option says so.
    fn requests_agent(&self) -> Option<bool> {
        (self.ssh_agent || self.no_ssh_agent).then_some(self.ssh_agent)
    }

    fn stdio(&self, command: &CommandLine) -> Stdio {
        let is_shell_on_terminal = *command == CommandLine::Login
            && io::stdin().is_terminal()
            && io::stdout().is_terminal();
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
            Some(gid) => group = Some(GroupReference::Id(gid)),
            None => {}
        }
        Ok(Some(Identity {
            user,
            group,
            supplementary_groups,
        }))
    }

    /// Returns the caller's variables and, after them, the requested ones.
    fn variables(&self) -> Result<CallerVariables, Failure> {
        let mut variables = CallerVariables::new();
        for file in &self.env_file {
            let text =
                fs::read(file).map_err(Failure::cannot(format!("read {}", file.display())))?;
            let read = values::variables(&text).map_err(|error| {
                Failure::new(format!("cannot read {}, {error}", file.display()))
            })?;
            variables.request(read);
        }
        variables.request(self.env.iter().cloned());
        Ok(variables)
    }

    fn working_directory(
        &self,
        id: &MachineId,
        running: &Running,
    ) -> Result<WorkingDirectory, Failure> {
        let here = env::current_dir().ok();
        let shared = here.as_deref().and_then(|here| shared_path(here, running));
        Ok(match (&self.workdir, shared) {
            (Some(directory), _) if directory.is_absolute() => {
                WorkingDirectory::Exact(directory.into())
            }
            (Some(directory), Some(shared)) => {
                WorkingDirectory::Exact(shared.join(directory).into())
            }
            (Some(directory), None) => {
                return Err(Failure::new(format!(
                    "cannot use --workdir {}: the machine does not share the current directory \
                     (use an absolute path)",
                    directory.display()
                )));
            }
            (None, Some(shared)) => WorkingDirectory::Preferred(shared.into()),
            (None, None) => {
                // Without a shared home, the machine's own home has the same path.
                let home = env::var_os("HOME").map(PathBuf::from);
                let lost = match here {
                    Some(here) if home.as_ref() == Some(&here) => None,
                    Some(here) => Some(format!("{id} does not share {}", here.display())),
                    None => Some("the current directory does not exist".to_owned()),
                };
                if let Some(lost) = lost {
                    output::note(&format!("{lost}; the command runs in the home directory."));
                }
                WorkingDirectory::Home
            }
        })
    }
}

pub(super) fn machine_user(running: &Running) -> Identity {
    Identity {
        user: UserReference::Id(running.user.uid),
        group: None,
        supplementary_groups: vec![],
    }
}

/// Returns the path of `here` in the machine, if the machine shares it.
fn shared_path(here: &Path, running: &Running) -> Option<PathBuf> {
    let home = running.shared_home.as_deref();
    let at_home = home.and_then(|home| below_home(here, home));
    if at_home.as_deref() == Some(here) && !is_hidden(here, &running.mounts) {
        return at_home;
    }
    let mounted = running.mounts.iter().filter_map(|mount| {
        let below = here.strip_prefix(mount.source.as_path()).ok()?;
        // Joining an empty path would add a slash.
        let path: PathBuf = mount.target.as_path().join(below).components().collect();
        Some((mount, path))
    });
    // The mount with the longest source was meant for this directory.
    let mounted = mounted.max_by_key(|(mount, _)| mount.source.as_str().len());
    mounted.map(|(_, path)| path).or(at_home)
}

/// Whether a mount of another directory covers this path in the machine.
fn is_hidden(path: &Path, mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| {
        path.starts_with(mount.target.as_path()) && !path.starts_with(mount.source.as_path())
    })
}

/// Returns the path of `here` in the machine, if it is in the shared home. Either path may contain
/// symbolic links.
fn below_home(here: &Path, home: &Path) -> Option<PathBuf> {
    if here.starts_with(home) {
        return Some(here.to_owned());
    }
    let below = here.strip_prefix(fs::canonicalize(home).ok()?).ok()?;
    Some(home.join(below))
}

/// Returns the words joined with spaces, as one line for a shell.
pub(super) fn joined(words: Vec<OsString>) -> OsString {
    let words: Vec<Vec<u8>> = words.into_iter().map(OsString::into_vec).collect();
    OsString::from_vec(words.join(&b' '))
}
