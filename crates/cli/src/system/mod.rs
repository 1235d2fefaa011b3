//! `container system`: verbs about the host.

mod df;
mod dns;
mod doctor;
mod info;
mod kernel;
mod prune;
mod report;

use clap::Subcommand;

use crate::failure::Failure;

/// Verbs. Their help texts are the docs of the types.
#[derive(Debug, Subcommand)]
pub(crate) enum System {
    Info(info::Info),
    Doctor(doctor::Doctor),
    Report(report::Report),
    Df(df::Df),
    Prune(prune::Prune),
    #[command(subcommand)]
    Kernel(kernel::Kernel),
    #[command(subcommand)]
    Dns(dns::Dns),
}

impl System {
    /// Runs the verb. Returns the exit code.
    pub(crate) async fn run(self, build: &str) -> Result<u8, Failure> {
        match self {
            System::Info(info) => info.run(build).await?,
            System::Doctor(doctor) => return doctor.run().await,
            System::Report(report) => report.run(build).await?,
            System::Df(df) => df.run(build).await?,
            System::Prune(prune) => prune.run(build).await?,
            System::Kernel(kernel) => return kernel.run(build).await,
            System::Dns(dns) => dns.run(build).await?,
        }
        Ok(0)
    }
}
