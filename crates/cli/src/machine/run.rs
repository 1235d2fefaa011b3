//! `container machine run`

use std::ffi::OsString;

use clap::Args;
use container_client::Client;
use container_protocol::CommandLine;

use super::command::{CommandOptions, joined};
use crate::failure::Failure;

/// Run a command line or a shell in a machine.
///
/// A stopped machine is booted first. The command runs as your user, in the current directory if
/// the machine shares it. The command and its arguments are joined with spaces and passed to your
/// login shell in the machine, so `run echo '$HOME'` prints the home directory there; `exec` passes
/// arguments unchanged. All arguments after the command belong to it.
///
/// The exit code is that of the command, 127 or 126 if the shell cannot be found or started, or 125
/// if there was another error before the command ran.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine run
  container machine run -n dev -- make -j4
  container machine run -n dev --root apt-get install -y git
  container machine run -n dev -e DEBUG=1 -w /srv ./server
  container machine run -n dev -d -- ./long-job.sh")]
pub(crate) struct Run {
    #[command(flatten)]
    options: CommandOptions,

    /// Command; default: your login shell.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    /// Runs the command. Returns its exit code.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let command = if self.command.is_empty() {
            CommandLine::Login
        } else {
            CommandLine::Shell(joined(self.command).into())
        };
        self.options.run(client, command).await
    }
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
