//! `container machine ssh-proxy`

use clap::Args;
use container_client::Client;
use container_machine::{InvalidMachineId, MachineId};
use container_protocol::{
    CommandLine, CommandRequest, Identity, Start, Stdio, UserReference, WorkingDirectory,
};

use super::{
    boot::{boot, start_command},
    caller::CallerVariables,
    command::machine_user,
    ssh_config::DOMAIN,
};
use crate::{attach::attach_without_signals, failure::Failure};

/// Connect standard input and output with a new SSH server in a machine.
///
/// ssh runs this (see `ssh-config`). A stopped machine is booted first.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  ssh -o ProxyCommand='container machine ssh-proxy --user %r %h' dev.machine")]
pub(crate) struct SshProxy {
    /// User who logs in; default: the machine's user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Machine: ID or ID.machine.
    #[arg(value_parser = host)]
    id: MachineId,
}

fn host(text: &str) -> Result<MachineId, InvalidMachineId> {
    text.strip_suffix(DOMAIN).unwrap_or(text).parse()
}

impl SshProxy {
    /// Copies until the server ends. Returns its exit code.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let id = self.id;
        let server = client.ssh_server(&id).await?;
        let mut running = boot(client, &id).await?;
        let mut variables = CallerVariables::new();
        if running.isolated {
            variables.isolate();
        }
        let (environment, handed_on) = variables.for_machine(&id);
        let identity = match self.user {
            Some(user) => Identity {
                user: UserReference::Name(user),
                group: None,
                supplementary_groups: vec![],
            },
            None => machine_user(&running),
        };
        let request = CommandRequest {
            command: CommandLine::Ssh(server),
            identity,
            environment,
            handed_on,
            working_directory: WorkingDirectory::Home,
            stdio: Stdio::Pipes,
            start: Start::Settled,
        };
        let started = start_command(client, &id, &mut running, &request, None).await?;
        Ok(attach_without_signals(started.command, started.streams)
            .await?
            .shell_code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_named_with_and_without_its_domain() {
        for name in ["dev", "dev.machine"] {
            assert_eq!(host(name).unwrap().as_str(), "dev");
        }
        assert!(host("dev.machine.machine").is_err());
        assert!(host("dev;id").is_err());
    }
}
