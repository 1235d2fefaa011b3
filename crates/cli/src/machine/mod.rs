//! `container machine`: one file per verb.

mod commit;
mod copy;
mod create;
mod delete;
mod inspect;
mod list;
mod logs;
mod port;
mod rename;
mod run;
mod set;
mod set_default;
mod start;
mod stop;

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use clap::Subcommand;
use container_api::Running;
use container_client::{
    Client,
    exec::{self, RunningCommand, Streams},
};
use container_machine::MachineId;
use container_protocol::CommandRequest;
use tokio::time::sleep;

use crate::{
    failure::Failure,
    interrupt::unless_interrupted,
    output,
    progress::{self, ProgressMode},
};

/// The verbs. What each does is told at its own type, where its help is made from.
#[derive(Debug, Subcommand)]
pub enum Machine {
    Create(create::Create),
    Run(run::Run),
    #[command(visible_alias = "ls")]
    List(list::List),
    Inspect(inspect::Inspect),
    Set(set::Set),
    SetDefault(set_default::SetDefault),
    Logs(logs::Logs),
    Port(port::Port),
    Start(start::Start),
    Stop(stop::Stop),
    Restart(start::Restart),
    #[command(name = "cp")]
    Copy(copy::Copy),
    Commit(commit::Commit),
    Rename(rename::Rename),
    #[command(visible_alias = "rm", alias = "remove")]
    Delete(delete::Delete),
}

impl Machine {
    /// Carries the verb out. Returns the exit code.
    pub async fn carry_out(self, build: &str) -> Result<u8, Failure> {
        let client = Client::connect(build).await?;
        match self {
            Machine::Create(create) => create.carry_out(&client).await?,
            Machine::Run(run) => return run.carry_out(&client).await,
            Machine::List(list) => list.carry_out(&client).await?,
            Machine::Inspect(inspect) => inspect.carry_out(&client).await?,
            Machine::Set(set) => set.carry_out(&client).await?,
            Machine::SetDefault(set_default) => set_default.carry_out(&client).await?,
            Machine::Logs(logs) => logs.carry_out(&client).await?,
            Machine::Port(port) => port.carry_out(&client).await?,
            Machine::Start(start) => return start.carry_out(&client).await,
            Machine::Restart(restart) => return restart.carry_out(&client).await,
            Machine::Copy(copy) => return copy.carry_out(&client).await,
            Machine::Commit(commit) => commit.carry_out(&client).await?,
            Machine::Rename(rename) => rename.carry_out(&client).await?,
            Machine::Stop(stop) => return stop.carry_out(&client).await,
            Machine::Delete(delete) => return delete.carry_out(&client).await,
        }
        Ok(0)
    }
}

/// The machine that was named, else the default one.
async fn one_or_default(client: &Client, name: Option<MachineId>) -> Result<MachineId, Failure> {
    match name {
        Some(id) => Ok(id),
        None => Ok(client.default_machine().await?),
    }
}

/// The machines that were named, else the default one.
async fn named_or_default(client: &Client, ids: Vec<MachineId>) -> Result<Vec<MachineId>, Failure> {
    match ids.is_empty() {
        true => Ok(vec![client.default_machine().await?]),
        false => Ok(ids),
    }
}

/// Boots the machine if it must be, and shows that only when it takes a moment.
async fn boot(client: &Client, id: &MachineId) -> Result<Running, Failure> {
    let mode = match io::stderr().is_terminal() {
        true => ProgressMode::Auto,
        false => ProgressMode::None,
    };
    let given_up = format!("{id} goes on booting; `container machine stop {id}` stops it.");
    progress::shown(mode, &given_up, async |show| client.boot(id, show).await).await
}

/// How long a machine may take to begin a command before that is worth a word: longer than the
/// guest agent waits for init's bus.
const SILENCE: Duration = Duration::from_secs(35);

/// Waits for a machine to begin a command, and says so where that takes long.
async fn begun<T>(id: &MachineId, begin: impl Future<Output = T>) -> io::Result<T> {
    let mut begin = pin!(unless_interrupted(begin));
    tokio::select! {
        begun = &mut begin => return begun,
        () = sleep(SILENCE) => {}
    }
    output::note(&format!(
        "{id} has not answered for {} s; still waiting. Is the host's disk full, or the host very \
         busy? `container machine restart {id}` starts the machine anew.",
        SILENCE.as_secs()
    ));
    begin.await
}

/// Starts a command in a machine that was up a moment ago, with the caller's SSH agent. If the
/// machine is going down, it is booted again.
async fn start(
    client: &Client,
    id: &MachineId,
    running: &mut Running,
    request: &CommandRequest,
    ssh_agent: Option<PathBuf>,
) -> Result<(RunningCommand, Streams), Failure> {
    let begin = async |socket: &Path| {
        if let Some(agent) = &ssh_agent {
            exec::use_ssh_agent(socket, agent.clone()).await?;
        }
        exec::start(socket, request).await
    };
    match begun(id, begin(&running.socket)).await? {
        Err(error)
            if error.is_of_machine_that_ended()
                && unless_interrupted(exec::is_down(&running.socket)).await? =>
        {
            *running = boot(client, id).await?;
            Ok(begun(id, begin(&running.socket)).await??)
        }
        begun => Ok(begun?),
    }
}
