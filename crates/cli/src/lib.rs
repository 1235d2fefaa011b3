//! The commands of the program `container`: arguments, output and progress.
//!
//! One file per verb in [`machine`], [`image`] and [`registry`]; none of them decides anything that
//! the service could.

mod attach;
mod build;
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
mod registry;
#[cfg(test)]
mod samples;
mod size;
mod system;
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
    /// Keep credentials for registries.
    ///
    /// Images that are not for everyone are fetched with them. Those that docker and podman keep
    /// are found without.
    #[command(
        subcommand,
        after_long_help = "\
Examples:
  container registry login ghcr.io
  container registry ls
  container registry logout ghcr.io"
    )]
    Registry(registry::Registry),
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
    Build(build::Build),
    /// Set up and show what concerns this computer and not one machine.
    #[command(
        subcommand,
        after_long_help = "\
Examples:
  container system info
  container system kernel ls
  container system dns create
  container system COMMAND --help"
    )]
    System(system::System),
    Completion(completion::Completion),
    #[command(hide = true)]
    ManualPages(manual::ManualPages),
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
    tracing::debug!("build {build}");
    match cli.command {
        Command::Machine(verb) => until_done(verb.carry_out(build)),
        Command::Image(verb) => until_done(verb.carry_out(build)),
        Command::Build(verb) => until_done(verb.carry_out(build)),
        Command::Registry(verb) => until_done(verb.carry_out(build)),
        Command::System(verb) => until_done(verb.carry_out(build)),
        Command::Completion(completion) => completion.carry_out().map(|()| 0),
        Command::ManualPages(pages) => pages.carry_out(Cli::command()).map(|()| 0),
    }
}

fn until_done(verb: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let events = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = events.block_on(verb);
    // A thread may still wait for standard input: it must not hold up the end.
    events.shutdown_background();
    outcome
}
