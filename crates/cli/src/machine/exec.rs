//! `container machine exec`

use std::ffi::OsString;

use clap::Args;
use container_client::Client;
use container_protocol::CommandLine;

use super::command::CommandOptions;
use crate::failure::Failure;

/// Run a program in a machine, without a shell.
///
/// A stopped machine is booted first. The program gets its arguments unchanged: spaces, quotes and
/// dollar signs have no meaning, and nothing is joined. It is searched in the PATH of the machine.
/// Everything else is as for `run`: your user, the current directory if the machine shares it, the
/// environment.
///
/// The exit code is that of the program, 127 if it was not found, 126 if it cannot be executed, or
/// 125 if there was another error before it ran.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine exec -- printf '%s\\n' 'a  b' '$HOME'
  container machine exec -n dev -t -- vim 'my notes.txt'
  container machine exec -n dev -- sh -c 'echo one; echo two'
  find . -name '*.c' -print0 | xargs -0 container machine exec -n dev -- wc -l")]
pub(crate) struct Exec {
    #[command(flatten)]
    options: CommandOptions,

    /// Program and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "ARGV")]
    program: Vec<OsString>,
}

impl Exec {
    /// Runs the program. Returns its exit code.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let words = self.program.into_iter().map(Into::into).collect();
        self.options.run(client, CommandLine::Program(words)).await
    }
}
