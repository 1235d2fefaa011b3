//! Boots a machine for a verb, and starts a command in it.

use std::{
    io::{self, IsTerminal},
    path::Path,
    pin::pin,
    time::Duration,
};

use container_api::{BootRequest, Running};
use container_client::{
    Client,
    exec::{self, ExecError, LentSshAgent, RunningCommand, Streams},
};
use container_machine::MachineId;
use container_protocol::CommandRequest;
use tokio::time::sleep;

use super::caller::OfferedAgent;
use crate::{
    failure::Failure,
    interrupt::unless_interrupted,
    output,
    progress::{self, ProgressMode},
};

/// Boots the machine if it is not running. Progress is only shown on a terminal.
pub(super) async fn boot(client: &Client, id: &MachineId) -> Result<Running, Failure> {
    boot_as(client, id, &BootRequest::default()).await
}

/// Boots the machine as requested if it is not running.
pub(super) async fn boot_as(
    client: &Client,
    id: &MachineId,
    request: &BootRequest,
) -> Result<Running, Failure> {
    let mode = if io::stderr().is_terminal() {
        ProgressMode::Auto
    } else {
        ProgressMode::None
    };
    let cancelled =
        format!("Cancelled; {id} is still booting (stop it with: container machine stop {id})");
    progress::show_while(mode, &cancelled, async |show| {
        client.boot(id, request, show).await
    })
    .await
}

/// Time after which a note is printed if a command has not started. Longer than the guest agent
/// waits for the boot before it starts a command, about which it sends notes of its own.
const SLOW_START: Duration = Duration::from_secs(150);

/// Waits for a command to start, and prints a note if that takes long.
async fn wait_for_start<T>(id: &MachineId, start: impl Future<Output = T>) -> Result<T, Failure> {
    let mut start = pin!(unless_interrupted(start));
    tokio::select! {
        started = &mut start => return started,
        () = sleep(SLOW_START) => {}
    }
    output::note(&format!(
        "{id} has not responded for {} s; still waiting. The host may be busy or its disk full. \
         Restart the machine with: container machine restart {id}",
        SLOW_START.as_secs()
    ));
    start.await
}

/// A command that runs.
pub(super) struct StartedCommand {
    pub(super) command: RunningCommand,
    pub(super) streams: Streams,
    /// Kept until the command ends.
    pub(super) ssh_agent: Option<LentSshAgent>,
}

/// Starts a command in a machine that was running a moment ago, with the caller's SSH agent. If the
/// machine is stopping, waits until it has stopped and boots it again.
pub(super) async fn start_command(
    client: &Client,
    id: &MachineId,
    running: &mut Running,
    request: &CommandRequest,
    agent: Option<&OfferedAgent>,
) -> Result<StartedCommand, Failure> {
    let start = async |socket: &Path| {
        let ssh_agent = offer_agent(socket, agent).await?;
        let (command, streams) = exec::start(socket, request, output::note).await?;
        Ok::<_, ExecError>(StartedCommand {
            command,
            streams,
            ssh_agent,
        })
    };
    match wait_for_start(id, start(&running.socket)).await? {
        Err(error)
            if error.is_machine_stopped()
                && unless_interrupted(exec::wait_until_stopped(&running.socket)).await? =>
        {
            *running = boot(client, id).await?;
            Ok(wait_for_start(id, start(&running.socket)).await??)
        }
        started => Ok(started?),
    }
}

async fn offer_agent(
    socket: &Path,
    agent: Option<&OfferedAgent>,
) -> Result<Option<LentSshAgent>, ExecError> {
    match agent {
        Some(OfferedAgent::Lent(agent)) => exec::lend_ssh_agent(socket, agent.clone()).await,
        Some(OfferedAgent::Given(agent)) => {
            exec::give_ssh_agent(socket, agent.clone()).await?;
            Ok(None)
        }
        None => Ok(None),
    }
}
