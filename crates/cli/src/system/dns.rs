//! `container system dns`

use clap::{Args, Subcommand, ValueEnum};
use container_client::{
    Client,
    host_names::{HostNames, RootStep},
};
use container_machine::DnsDomain;

use crate::{failure::Failure, output};

/// Make machines resolvable by name on this host.
///
/// Every program on this host then resolves `<machine>.machine` to the address of the running
/// machine. One step of the set-up needs root; it is printed before it runs.
#[derive(Debug, Subcommand)]
#[command(after_long_help = "\
Examples:
  container system dns create
  container system dns create --dry-run
  container system dns ls
  container system dns rm machine")]
pub(crate) enum Dns {
    Create(Create),
    #[command(visible_alias = "rm", alias = "remove")]
    Delete(Delete),
    #[command(visible_alias = "ls")]
    List(List),
}

/// Make machines resolvable below a domain.
///
/// If systemd-resolved is running and gets its name servers from network links, it is configured to
/// send queries below the domain to the machines' name server, so machines created later are
/// resolved as well. Otherwise the running machines are written into /etc/hosts; repeat the command
/// for new machines.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system dns create
  container system dns create test --dry-run")]
pub(crate) struct Create {
    /// Domain below which machines are resolvable.
    #[arg(default_value = "machine")]
    domain: DnsDomain,

    /// Resolver to configure; default: systemd-resolved if it can be used, else /etc/hosts.
    #[arg(long, value_name = "RESOLVER")]
    with: Option<Resolver>,

    #[command(flatten)]
    dry_run: DryRunOptions,
}

/// Undo `create` for a domain.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system dns delete machine
  container system dns rm machine --dry-run")]
pub(crate) struct Delete {
    /// Domain to remove.
    domain: DnsDomain,

    #[command(flatten)]
    dry_run: DryRunOptions,
}

/// List the domains below which machines are resolvable.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system dns ls")]
pub(crate) struct List {}

#[derive(Debug, Args)]
struct DryRunOptions {
    /// Print the steps without running them.
    #[arg(long)]
    dry_run: bool,
}

/// Resolver that is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Resolver {
    /// systemd-resolved.
    Resolved,
    /// The file /etc/hosts.
    Hosts,
}

impl Dns {
    pub(crate) async fn run(self, build: &str) -> Result<(), Failure> {
        match self {
            Dns::Create(create) => create.run(build).await,
            Dns::Delete(delete) => delete.run(),
            Dns::List(list) => list.run(),
        }
    }
}

impl Create {
    async fn run(self, build: &str) -> Result<(), Failure> {
        let host_names = HostNames::from_environment()?;
        let resolver = match self.with {
            Some(Resolver::Resolved) => {
                host_names.check_resolved()?;
                Resolver::Resolved
            }
            Some(Resolver::Hosts) => Resolver::Hosts,
            None => match host_names.check_resolved() {
                Ok(()) => Resolver::Resolved,
                Err(reason) => {
                    output::note(&format!("{reason}; using /etc/hosts"));
                    Resolver::Hosts
                }
            },
        };
        let steps = match resolver {
            Resolver::Resolved => host_names.add_to_resolved(&self.domain),
            Resolver::Hosts => {
                let machines = Client::connect(build).await?.machines().await?.machines;
                host_names.add_to_hosts_file(&self.domain, &machines)?
            }
        };
        run_steps(&steps, self.dry_run)
    }
}

impl Delete {
    fn run(self) -> Result<(), Failure> {
        let steps = HostNames::from_environment()?.remove(&self.domain)?;
        run_steps(&steps, self.dry_run)
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let domains = HostNames::from_environment()?.domains()?;
        let lines = domains.iter().map(|domain| format!("{domain}\n"));
        output::print(&lines.collect::<String>())
    }
}

/// Runs the steps in order, printing each before it runs; or only prints them.
fn run_steps(steps: &[RootStep], options: DryRunOptions) -> Result<(), Failure> {
    for step in steps {
        if options.dry_run {
            output::line(step)?;
        } else {
            output::note(&step.to_string());
            step.run()?;
        }
    }
    Ok(())
}
