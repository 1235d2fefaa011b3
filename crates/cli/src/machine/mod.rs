//! `container machine`: one file per verb.

mod copy;
mod create;
mod delete;
mod inspect;
mod list;
mod logs;
mod rename;
mod run;
mod set;
mod set_default;
mod start;
mod stop;

use std::io::{self, IsTerminal};

use clap::Subcommand;
use container_api::Running;
use container_client::Client;
use container_machine::MachineId;

use crate::{
    failure::Failure,
    progress::{ProgressDisplay, ProgressMode},
};

/// Create, run and manage machines.
#[derive(Debug, Subcommand)]
pub enum Machine {
    /// Make a machine from an image, and boot it.
    Create(create::Create),
    /// Run a command in a machine, or a shell; boots it first if it is stopped.
    Run(run::Run),
    /// List machines.
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Show all that is known of a machine, as JSON.
    Inspect(inspect::Inspect),
    /// Change what a machine's next boot applies.
    Set(set::Set),
    /// Choose the machine that is meant where none is named.
    SetDefault(set_default::SetDefault),
    /// Show what a machine's init, or its kernel, printed.
    Logs(logs::Logs),
    /// Boot machines.
    Start(start::Start),
    /// Stop machines in order.
    Stop(stop::Stop),
    /// Stop machines in order and boot them again.
    Restart(start::Restart),
    /// Copy files and directories into a machine or out of it.
    #[command(name = "cp", visible_alias = "copy")]
    Copy(copy::Copy),
    /// Give a machine another name; it must be stopped.
    Rename(rename::Rename),
    /// Delete machines and their disks; running ones are stopped first.
    #[command(visible_alias = "rm")]
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
            Machine::Start(start) => return start.carry_out(&client).await,
            Machine::Restart(restart) => return restart.carry_out(&client).await,
            Machine::Copy(copy) => return copy.carry_out(&client).await,
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
    let mut display = None;
    let mut show = |progress| {
        display
            .get_or_insert_with(|| ProgressDisplay::new(mode))
            .show(&progress);
    };
    Ok(client.boot(id, &mut show).await?)
}

/// Does the same to all of them, in order. What fails for one is told, and does not keep it from
/// the others. Returns the exit code.
async fn for_each(
    ids: Vec<MachineId>,
    mut act: impl AsyncFnMut(MachineId) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let mut code = 0;
    for id in ids {
        if let Err(failure) = act(id).await {
            failure.print();
            code = 1;
        }
    }
    Ok(code)
}
