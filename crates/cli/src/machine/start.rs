//! `container machine start` and `restart`

use std::io::{self, IsTerminal};

use clap::Args;
use container_api::{BootRequest, StopRequest};
use container_client::Client;
use container_machine::MachineId;
use container_protocol::{
    CommandLine, CommandRequest, Identity, Start as StartPoint, Stdio, UserReference,
    WorkingDirectory,
};

use super::{
    boot::{boot, boot_as, start_command},
    caller::CallerVariables,
    target::all_or_default,
};
use crate::{
    attach::{attach, terminal_size},
    each::for_each,
    failure::Failure,
    interrupt::unless_interrupted,
    output,
};

/// Boot machines.
///
/// A machine that is running is left as it is. A suspended machine continues where it was.
/// `container machine run` does the same.
///
/// With --rescue, one machine is booted without its init, and a shell runs as root on its disk, on
/// the terminal or with the commands of standard input. The machine runs until it is stopped.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine start
  container machine start dev web
  container machine start --rescue dev")]
pub(crate) struct Start {
    /// Boot without the machine's init, and run a root shell to repair it.
    #[arg(long)]
    rescue: bool,

    /// Only resume machines that are suspended; used by stand-ins of idle machines.
    #[arg(long, hide = true, conflicts_with = "rescue")]
    if_suspended: bool,

    /// Machines; default: the default machine.
    ids: Vec<MachineId>,
}

impl Start {
    /// Boots the machines in order and prints their ids.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let ids = all_or_default(client, self.ids).await?;
        if self.rescue {
            let [id] = &ids[..] else {
                return Err(Failure::new("--rescue requires a single machine"));
            };
            return rescue(client, id).await;
        }
        let request = BootRequest {
            if_suspended: self.if_suspended,
            ..BootRequest::default()
        };
        for_each(ids, async |id| {
            boot_as(client, &id, &request).await?;
            output::line(id)
        })
        .await
    }
}

/// Boots a machine without its init, and runs a shell as root in it. Returns the shell's exit code.
async fn rescue(client: &Client, id: &MachineId) -> Result<u8, Failure> {
    let request = BootRequest {
        rescue: true,
        ..BootRequest::default()
    };
    let mut running = boot_as(client, id, &request).await?;
    output::note(&format!(
        "Machine {id} is running without its init. After the repair: container machine restart {id}"
    ));
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let mut variables = CallerVariables::new();
    if running.isolated {
        variables.isolate();
    }
    let (environment, handed_on) = variables.for_machine(id);
    let request = CommandRequest {
        command: CommandLine::Login,
        identity: Identity {
            user: UserReference::Id(0),
            group: None,
            supplementary_groups: vec![],
        },
        environment,
        handed_on,
        working_directory: WorkingDirectory::Home,
        stdio: if is_terminal {
            Stdio::Terminal(terminal_size())
        } else {
            Stdio::Pipes
        },
        start: StartPoint::Immediate,
    };
    let started = start_command(client, id, &mut running, &request, None).await?;
    Ok(attach(started.command, started.streams).await?.shell_code())
}

/// Restart machines.
///
/// Shuts each machine down and boots it again, with the settings changed by `container machine
/// set`. A stopped machine is booted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine restart
  container machine restart dev web")]
pub(crate) struct Restart {
    /// Machines; default: the default machine.
    ids: Vec<MachineId>,
}

impl Restart {
    /// Restarts the machines in order and prints their ids.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let ids = all_or_default(client, self.ids).await?;
        for_each(ids, async |id| {
            unless_interrupted(client.stop(&id, &StopRequest::default())).await??;
            boot(client, &id).await?;
            output::line(id)
        })
        .await
    }
}
