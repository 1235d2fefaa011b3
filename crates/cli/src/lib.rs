//! The commands of the program `container`: arguments, output and progress.
//!
//! One file per verb in [`machine`] and [`image`]; none of them decides anything that the service could.

mod attach;
mod completion;
mod each;
mod failure;
mod filter;
mod format;
#[cfg(test)]
mod help;
mod image;
mod interrupt;
mod machine;
mod manual;
mod output;
mod progress;
#[cfg(test)]
mod samples;
mod size;
mod table;
mod template;
mod usage;
mod values;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::Failure;

/// Persistent, lightweight Linux machines made from OCI images.
#[derive(Debug, Parser)]
#[command(
    name = "container",
    version,
    after_long_help = "\
Examples:
  container machine create registry.example/debian-systemd:12 --name dev
  container machine run -n dev
  container machine run -n dev -- make -j4
  container machine ls

Exit codes: 0 when it is done, 1 when it failed, 2 when the command line cannot be \
understood. \
`machine run` ends with the code of the command that it ran."
)]
struct Cli {
    /// Tell on standard error what is being done: requests, paths, what is started.
    #[arg(long, global = true, display_order = 1000)]
    debug: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, run and manage machines.
    ///
    /// A machine is a small Linux virtual machine made from a container image.
    /// You and your home directory are in it, its services keep running, and its disk stays when it
    /// is stopped.
    #[command(
        visible_alias = "m",
        subcommand,
        after_long_help = "\
Examples:
  container machine create registry.example/debian-systemd:12 --name dev
  container machine run -n dev
  container machine stop dev
  container machine COMMAND --help"
    )]
    Machine(machine::Machine),
    /// Fetch, list and manage the images that machines are made from.
    #[command(
        visible_alias = "i",
        subcommand,
        after_long_help = "\
Examples:
  container image pull registry.example/debian-systemd:12
  container image ls
  container image prune
  container image COMMAND --help"
    )]
    Image(image::Image),
    Completion(completion::Completion),
    #[command(hide = true)]
    ManualPages(manual::ManualPages),
}

/// A verb that asks the service.
#[derive(Debug)]
enum Verb {
    Machine(machine::Machine),
    Image(image::Image),
}

/// What a person typed, carried out. `build` tells this build of the program from another.
pub fn main(build: &str) -> ExitCode {
    completion::answer(Cli::command);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::told(error),
    };
    if cli.debug {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(output::is_coloured(&std::io::stderr()))
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
    let verb = match cli.command {
        Command::Machine(verb) => Verb::Machine(verb),
        Command::Image(verb) => Verb::Image(verb),
        Command::Completion(completion) => return completion.carry_out().map(|()| 0),
        Command::ManualPages(pages) => return pages.carry_out(Cli::command()).map(|()| 0),
    };
    tracing::debug!("build {build}");
    let events = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = events.block_on(async {
        match verb {
            Verb::Machine(verb) => verb.carry_out(build).await,
            Verb::Image(verb) => verb.carry_out(build).await,
        }
    });
    // A thread may still wait for standard input: it must not hold up the end.
    events.shutdown_background();
    outcome
}
