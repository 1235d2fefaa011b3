//! Command line of the program `container`: arguments, output and progress.
//!
//! [`main`] parses the arguments, runs one verb, and returns its exit code. A verb turns its
//! options into a request for `container_client` (or, for `system kernel`, `container_kernel`) and
//! prints the reply. Those crates, and the service, decide and check everything.
//!
//! Results go to standard output, one line per item, so that scripts can use them. Notes, progress
//! and errors go to standard error.
//!
//! | module | responsible for |
//! |---|---|
//! | `machine`, `image`, `registry`, `system`, `build` | the verbs, one file each |
//! | `options`, `values`, `filter` | options that several verbs share, and their values |
//! | `format`, `table`, `template`, `size` | what is printed |
//! | `output`, `progress`, `failure`, `usage` | how it is printed: results, progress, errors |
//! | `attach`, `interrupt` | streams and signals while a command runs |
//! | `completion`, `manual` | shell completion and manual pages |
//!
//! ```no_run
//! // The name of the build. A running service of another build is replaced.
//! let code: std::process::ExitCode = container_cli::main("build 1");
//! ```

// The docs of verbs and options are help texts for clap: `HOST[:PORT]` and `<none>` are no markup.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

mod archive_file;
mod attach;
mod build;
mod completion;
mod confirm;
mod control_characters;
mod each;
mod failure;
mod filter;
mod format;
mod freed;
mod image;
mod interrupt;
mod machine;
mod manual;
mod options;
mod output;
mod progress;
mod registry;
mod size;
mod system;
mod table;
mod template;
#[cfg(test)]
mod tests;
mod usage;
mod values;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::{Failure, FailureCode};

/// Run persistent, lightweight Linux machines made from OCI images.
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

Exit codes: 0 for success, 1 for failure, 2 for an invalid command line. \
`machine run` and `machine exec` exit with the code of the command that they ran, or with 125 for \
a failure of their own."
)]
struct Cli {
    /// Log requests, paths and started processes to standard error.
    #[arg(long, global = true, display_order = 1000)]
    debug: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Manage machines: create, run, stop, copy.
    ///
    /// A machine is a small Linux virtual machine made from an OCI image. It has a user with your
    /// name and shares your home directory. Its services keep running, and its disk is kept when it
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
    /// Manage credentials for registries.
    ///
    /// Credentials are needed to pull private images and to push. Those stored by docker and podman
    /// are used as well.
    #[command(
        subcommand,
        after_long_help = "\
Examples:
  container registry login ghcr.io
  container registry ls
  container registry logout ghcr.io"
    )]
    Registry(registry::Registry),
    /// Manage the images that machines are made from: pull, list, save, remove.
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
    /// Manage this host: kernels, name resolution, information.
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

/// Runs the command line of this process. `build` identifies this build of the program: a running
/// service of another build is replaced.
pub fn main(build: &str) -> ExitCode {
    completion::complete(Cli::command);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::report(error, std::env::args_os()),
    };
    if cli.debug {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(output::is_coloured(&std::io::stderr()))
            .with_max_level(tracing::Level::DEBUG)
            .init();
    }
    let failure_code = match &cli.command {
        Command::Machine(verb) => verb.failure_code(),
        _ => FailureCode::One,
    };
    match run(cli, build) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::failure(&failure);
            ExitCode::from(failure_code.code(&failure))
        }
    }
}

fn run(cli: Cli, build: &str) -> Result<u8, Failure> {
    tracing::debug!("build {build}");
    match cli.command {
        Command::Machine(verb) => block_on(verb.run(build)),
        Command::Image(verb) => block_on(verb.run(build)),
        Command::Build(verb) => block_on(verb.run(build)),
        Command::Registry(verb) => block_on(verb.run(build)),
        Command::System(verb) => block_on(verb.run(build)),
        Command::Completion(completion) => completion.run().map(|()| 0),
        Command::ManualPages(pages) => pages.run(Cli::command()).map(|()| 0),
    }
}

fn block_on(verb: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let events = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::cannot("start the event loop"))?;
    let outcome = events.block_on(verb);
    // A blocked read of standard input must not delay the exit.
    events.shutdown_background();
    outcome
}
