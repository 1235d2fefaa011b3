//! Makes running machines resolvable by name on the host, as `<machine>.<domain>`.
//!
//! There are two ways: a configuration file that makes systemd-resolved send queries below the
//! domain to the name server of the machines' network, or a block of lines in `/etc/hosts`. Both
//! need root. Nothing in this module changes the host by itself: its functions return
//! [`RootStep`]s, which the caller shows to the user and then runs. The files themselves are the
//! only record of what is set up, so removing and listing read them again.

mod hosts_file;
mod resolved;
mod root_step;

use std::{io, net::SocketAddr, path::Path};

use container_api::MachineState;
use container_machine::{
    Directories, DirectoriesError, DnsDomain, RESOLVED_DIRECTORY, domains_of_server,
};

pub use resolved::ResolvedUnusable;
pub use root_step::{RootStep, RootStepError};

use hosts_file::{BlockMarks, HOSTS_FILE};

/// Error of setting up or removing host names.
#[derive(Debug, thiserror::Error)]
pub enum HostNamesError {
    /// No machine has an address that could be written into `/etc/hosts`.
    #[error(
        "no machine is running, so there is nothing to write into /etc/hosts (start the machines first, then repeat this command)"
    )]
    NoRunningMachine,
    /// The domain is set up neither in systemd-resolved nor in `/etc/hosts`.
    #[error("domain {0} not found (list domains with: container system dns ls)")]
    DomainNotFound(DnsDomain),
    /// `/etc/hosts` cannot be read.
    #[error("cannot read {HOSTS_FILE}: {0}")]
    ReadHosts(io::Error),
}

/// Host names of the machines in one set of directories.
///
/// Each set of directories has a name server of its own. Its port distinguishes the entries of
/// several installations on one host.
#[derive(Debug, Clone)]
pub struct HostNames {
    name_server: SocketAddr,
}

impl HostNames {
    /// Returns the host names for the directories named by the environment.
    pub fn from_environment() -> Result<HostNames, DirectoriesError> {
        Ok(HostNames {
            name_server: Directories::from_environment()?.name_server(),
        })
    }

    /// Checks that systemd-resolved can be used without affecting the resolution of other names.
    pub fn check_resolved(&self) -> Result<(), ResolvedUnusable> {
        resolved::check(self.name_server)
    }

    /// Returns the steps that make systemd-resolved resolve machines below `domain`, including
    /// machines created later.
    pub fn add_to_resolved(&self, domain: &DnsDomain) -> Vec<RootStep> {
        let content = resolved::configuration(self.name_server, domain);
        let write = RootStep::Write {
            path: resolved::configuration_path(self.name_server, domain),
            shown: content.clone(),
            content,
        };
        vec![write, resolved::reload()]
    }

    /// Returns the steps that write the running ones of `machines` into `/etc/hosts`, replacing the
    /// entries of an earlier call for `domain`.
    pub fn add_to_hosts_file(
        &self,
        domain: &DnsDomain,
        machines: &[MachineState],
    ) -> Result<Vec<RootStep>, HostNamesError> {
        let running = machines.iter().filter_map(|machine| {
            let address = machine.ip_address?;
            Some(format!("{address} {}.{domain}\n", machine.id))
        });
        let lines: String = running.collect();
        if lines.is_empty() {
            return Err(HostNamesError::NoRunningMachine);
        }
        let hosts = hosts_file::read().map_err(HostNamesError::ReadHosts)?;
        Ok(vec![hosts_file::replace_block(
            &hosts,
            &self.marks(domain),
            &lines,
        )])
    }

    /// Returns the steps that undo both ways of adding `domain`.
    pub fn remove(&self, domain: &DnsDomain) -> Result<Vec<RootStep>, HostNamesError> {
        let mut steps = Vec::new();
        let path = resolved::configuration_path(self.name_server, domain);
        if path.exists() {
            steps.extend([RootStep::Remove { path }, resolved::reload()]);
        }
        let hosts = hosts_file::read().map_err(HostNamesError::ReadHosts)?;
        let marks = self.marks(domain);
        if hosts.contains(&marks.begin) {
            steps.push(hosts_file::replace_block(&hosts, &marks, ""));
        }
        if steps.is_empty() {
            return Err(HostNamesError::DomainNotFound(domain.clone()));
        }
        Ok(steps)
    }

    /// Returns the domains below which machines are resolvable, sorted and without duplicates.
    pub fn domains(&self) -> Result<Vec<String>, HostNamesError> {
        let resolved = domains_of_server(self.name_server, Path::new(RESOLVED_DIRECTORY));
        let mut domains: Vec<String> = resolved.iter().map(ToString::to_string).collect();
        let before_domain = self.marks("").begin;
        let hosts = hosts_file::read().map_err(HostNamesError::ReadHosts)?;
        let marked = hosts
            .lines()
            .filter_map(|line| line.strip_prefix(&before_domain));
        domains.extend(marked.map(str::to_owned));
        domains.sort();
        domains.dedup();
        Ok(domains)
    }

    fn marks(&self, domain: impl std::fmt::Display) -> BlockMarks {
        BlockMarks::new(self.name_server.port(), domain)
    }
}
