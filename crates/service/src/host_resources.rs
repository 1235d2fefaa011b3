//! CPUs and memory of the host, which limit those of a machine.

use std::{fs, num::NonZeroU32, thread};

use container_machine::{BootConfiguration, Memory};

/// Virtual CPUs that a machine may have on any host.
const MIN_CPU_LIMIT: u32 = 16;

/// Virtual CPUs that a machine may have for each core of the host. With more, virtual CPUs mostly
/// wait for each other, and the guest's kernel may not finish booting.
const CPUS_PER_CORE: u32 = 4;

/// A boot warns if less than this part of the machine's memory is available, or less than a machine
/// needs to boot.
const ENOUGH_PART: u64 = 4;

/// The host's cores and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostResources {
    /// Cores that this process may use.
    pub(crate) cores: u32,
    /// Memory in bytes; 0 if not known.
    pub(crate) memory: u64,
    /// Memory in bytes that programs can still use; absent if not known.
    pub(crate) available: Option<u64>,
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
            memory: parse_memory(&meminfo, "MemTotal:").unwrap_or_default(),
            available: parse_memory(&meminfo, "MemAvailable:"),
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

    /// Returns a warning for a machine with this memory in bytes if the host has much less. A
    /// machine occupies what its programs use, so it may have more than is available.
    pub(crate) fn low_memory(self, memory: u64) -> Option<String> {
        let enough = (memory / ENOUGH_PART).max(Memory::MIN).min(memory);
        let available = self.available.filter(|available| *available < enough)?;
        Some(format!(
            "the machine may use {} MiB of memory, and the host has {} MiB left; when they are \
             used up, its kernel kills a program, which may be the machine (give it less with: \
             container machine set memory=SIZE, or stop other machines)",
            memory >> 20,
            available >> 20
        ))
    }
}

/// Parses a field of `/proc/meminfo` (proc_meminfo(5)); returns bytes.
fn parse_memory(meminfo: &str, field: &str) -> Option<u64> {
    let amount = meminfo.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = amount.split_whitespace().next()?.parse().ok()?;
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
            available: None,
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
        let cpus = |cores| {
            let host = HostResources {
                cores,
                memory: 0,
                available: None,
            };
            host.default_cpus().get()
        };
        assert_eq!((cpus(2), cpus(24)), (4, 12));
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        let meminfo = "MemTotal:  2048 kB\nMemAvailable: 1 kB\n";
        assert_eq!(parse_memory(meminfo, "MemTotal:"), Some(2 << 20));
        assert_eq!(parse_memory(meminfo, "MemAvailable:"), Some(1024));
    }

    #[test]
    fn little_memory_is_warned_of() {
        let warning = |available: Option<u64>, memory: u64| {
            let host = HostResources {
                cores: 1,
                memory: 64 << 30,
                available: available.map(|it| it << 20),
            };
            host.low_memory(memory << 30)
        };
        let text = warning(Some(1023), 2).unwrap();
        assert!(
            text.contains("2048 MiB") && text.contains("1023 MiB"),
            "{text}"
        );
        assert!(warning(Some(1023), 1).is_some());
        assert!(warning(Some(4095), 16).is_some());
        assert_eq!(warning(Some(1024), 4), None);
        assert_eq!(warning(None, 4), None);
    }
}
