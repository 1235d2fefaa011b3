//! The commands of the program `container`: arguments, output and progress.
//!
//! One file per verb in [`machine`]; none of them decides anything that the service could.

mod attach;
mod failure;
mod machine;
mod output;
mod progress;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// Persistent, lightweight Linux machines made from OCI images.
#[derive(Debug, Parser)]
#[command(
    name = "container",
    version,
    after_help = "Examples:\n  container machine create alpine:latest --name dev\n  container machine run -n dev"
)]
struct Cli {
    /// Tell on standard error what is being done.
    #[arg(long, global = true)]
    debug: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, run and manage machines.
    #[command(visible_alias = "m", subcommand)]
    Machine(machine::Machine),
}

/// What a person typed, carried out. `build` tells this build of the program from another.
pub fn main(build: &str) -> ExitCode {
    let cli = Cli::parse();
    if cli.debug {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .init();
    }
    match carry_out(cli, build) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::FAILURE
        }
    }
}

fn carry_out(cli: Cli, build: &str) -> Result<u8, Failure> {
    let events = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let Command::Machine(verb) = cli.command;
    let outcome = events.block_on(verb.carry_out(build));
    // A thread may still wait for standard input: it must not hold up the end.
    events.shutdown_background();
    outcome
}
