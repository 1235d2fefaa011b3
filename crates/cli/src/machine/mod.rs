//! `container machine`: one file per verb.

mod boot;
mod caller;
mod check;
mod clone;
mod command;
mod commit;
mod copy;
mod create;
mod delete;
mod docker_env;
mod exec;
mod export;
mod filter;
mod import;
mod inspect;
mod kill;
mod list;
mod logs;
mod mounts;
mod port;
mod rename;
mod run;
mod set;
mod set_default;
mod snapshot;
mod ssh_config;
mod ssh_proxy;
mod start;
mod stop;
mod suspend;
mod target;

use clap::Subcommand;
use container_client::Client;

pub(crate) use filter::MachineFilter;

use crate::failure::{Failure, FailureCode};

/// Verbs. Their help texts are the docs of the types.
#[derive(Debug, Subcommand)]
pub(crate) enum Machine {
    Create(create::Create),
    Run(run::Run),
    Exec(exec::Exec),
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
    Kill(kill::Kill),
    Suspend(suspend::Suspend),
    #[command(name = "cp")]
    Copy(copy::Copy),
    Check(check::Check),
    Commit(commit::Commit),
    Clone(clone::Clone),
    Snapshot(snapshot::Snapshot),
    SshConfig(ssh_config::SshConfig),
    DockerEnv(docker_env::DockerEnv),
    #[command(hide = true)]
    SshProxy(ssh_proxy::SshProxy),
    Export(export::Export),
    Import(import::Import),
    Rename(rename::Rename),
    #[command(visible_alias = "rm", alias = "remove")]
    Delete(delete::Delete),
}

impl Machine {
    /// Returns the exit code if the verb fails.
    pub(crate) fn failure_code(&self) -> FailureCode {
        match self {
            Machine::Run(_) | Machine::Exec(_) => FailureCode::OfCommand,
            _ => FailureCode::One,
        }
    }

    /// Runs the verb. Returns the exit code.
    pub(crate) async fn run(self, build: &str) -> Result<u8, Failure> {
        let client = Client::connect(build).await?;
        match self {
            Machine::Create(create) => create.run(&client).await?,
            Machine::Run(run) => return run.run(&client).await,
            Machine::Exec(exec) => return exec.run(&client).await,
            Machine::List(list) => list.run(&client).await?,
            Machine::Inspect(inspect) => inspect.run(&client).await?,
            Machine::Set(set) => set.run(&client).await?,
            Machine::SetDefault(set_default) => set_default.run(&client).await?,
            Machine::Logs(logs) => logs.run(&client).await?,
            Machine::Port(port) => port.run(&client).await?,
            Machine::Start(start) => return start.run(&client).await,
            Machine::Restart(restart) => return restart.run(&client).await,
            Machine::Kill(kill) => return kill.run(&client).await,
            Machine::Suspend(suspend) => return suspend.run(&client).await,
            Machine::Copy(copy) => return copy.run(&client).await,
            Machine::Check(check) => return check.run(&client).await,
            Machine::Commit(commit) => commit.run(&client).await?,
            Machine::Clone(clone) => clone.run(&client).await?,
            Machine::Snapshot(snapshot) => snapshot.run(&client).await?,
            Machine::SshConfig(ssh_config) => ssh_config.run(&client).await?,
            Machine::DockerEnv(docker_env) => docker_env.run(&client).await?,
            Machine::SshProxy(ssh_proxy) => return ssh_proxy.run(&client).await,
            Machine::Export(export) => export.run(&client).await?,
            Machine::Import(import) => import.run(&client).await?,
            Machine::Rename(rename) => rename.run(&client).await?,
            Machine::Stop(stop) => return stop.run(&client).await,
            Machine::Delete(delete) => return delete.run(&client).await,
        }
        Ok(0)
    }
}
