//! CPUs and memory of the host, which limit those of a machine.

use std::{fs, num::NonZeroU32, thread};

use container_machine::BootConfiguration;

/// Virtual CPUs that a machine may have on any host.
const MIN_CPU_LIMIT: u32 = 16;

/// Virtual CPUs that a machine may have for each core of the host. With more, virtual CPUs mostly
/// wait for each other, and the guest's kernel may not finish booting.
const CPUS_PER_CORE: u32 = 4;

/// The host's cores and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostResources {
    /// Cores that this process may use.
    pub(crate) cores: u32,
    /// Memory in bytes; 0 if not known.
    pub(crate) memory: u64,
}

/// A machine is to have more than the host can provide.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostLimitError {
    #[error("{requested} CPUs are too many: the limit is {limit} on this host with {cores} cores")]
    Cpus {
        requested: u32,
        cores: u32,
        limit: u32,
    },
    #[error("{requested} MiB of memory are too much: this host has {memory} MiB")]
    Memory {
        /// In MiB.
        requested: u64,
        /// In MiB.
        memory: u64,
    },
}

impl HostResources {
    /// Returns the resources of the host of this process.
    pub(crate) fn detect() -> HostResources {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        HostResources {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            memory: parse_total_memory(&meminfo).unwrap_or_default(),
        }
    }

    /// Returns the default number of virtual CPUs: half of the cores, and at least four.
    pub(crate) fn default_cpus(self) -> NonZeroU32 {
        NonZeroU32::new((self.cores / 2).max(4)).unwrap_or(NonZeroU32::MIN)
    }

    /// Refuses a machine with more CPUs or memory than the host can provide.
    pub(crate) fn check(self, boot: &BootConfiguration) -> Result<(), HostLimitError> {
        let limit = self.cores.saturating_mul(CPUS_PER_CORE).max(MIN_CPU_LIMIT);
        if boot.cpus.get() > limit {
            return Err(HostLimitError::Cpus {
                requested: boot.cpus.get(),
                cores: self.cores,
                limit,
            });
        }
        if self.memory > 0 && boot.memory.bytes() > self.memory {
            return Err(HostLimitError::Memory {
                requested: boot.memory.bytes() >> 20,
                memory: self.memory >> 20,
            });
        }
        Ok(())
    }
}

/// Parses `MemTotal` of `/proc/meminfo` (proc_meminfo(5)); returns bytes.
fn parse_total_memory(meminfo: &str) -> Option<u64> {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{boot_change, configuration::Configuration};

    #[test]
    fn more_than_the_host_has_is_refused() {
        let host = HostResources {
            cores: 2,
            memory: 8 << 30,
        };
        let check = |cpus: u32, memory: &str| {
            let change = container_api::BootChange {
                cpus: NonZeroU32::new(cpus),
                memory: Some(memory.parse().unwrap()),
                ..Default::default()
            };
            let boot = Configuration::default().boot_defaults();
            host.check(&boot_change::apply(boot, &change).unwrap())
        };
        assert_eq!(check(16, "8G"), Ok(()));
        assert!(matches!(
            check(17, "1G"),
            Err(HostLimitError::Cpus { limit: 16, .. })
        ));
        assert!(matches!(
            check(1, "9G"),
            Err(HostLimitError::Memory { memory: 8192, .. })
        ));
    }

    #[test]
    fn default_cpus_are_half_the_cores_and_at_least_four() {
        let cpus = |cores| HostResources { cores, memory: 0 }.default_cpus().get();
        assert_eq!((cpus(2), cpus(24)), (4, 12));
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        assert_eq!(parse_total_memory("MemTotal:  2048 kB\n"), Some(2 << 20));
    }
}
