//! What this host has, and so what a machine may get.

use std::{fs, num::NonZeroU32, thread};

use container_machine::BootConfiguration;

/// A machine may have so many virtual CPUs on any host.
const ALWAYS_CPUS: u32 = 16;

/// And so many for each of the host's cores: beyond that they only wait for each other, and a
/// machine may not come up at all.
const CPUS_PER_CORE: u32 = 4;

/// The host's cores and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Cores that this process may use.
    pub cores: u32,
    /// Memory in bytes; 0 where it is not known.
    pub memory: u64,
}

/// More than the host can give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Too many CPUs.
    #[error(
        "{asked} CPUs are too many: on this host with {cores} cores a machine has {most} at most"
    )]
    Cpus {
        /// What was asked for.
        asked: u32,
        /// What the host has.
        cores: u32,
        /// What it could be.
        most: u32,
    },
    /// Too much memory.
    #[error("{asked} MiB of memory are too much: this host has {memory} MiB")]
    Memory {
        /// What was asked for, in MiB.
        asked: u64,
        /// What the host has, in MiB.
        memory: u64,
    },
}

impl Host {
    /// The host of this process.
    pub fn of_this_process() -> Host {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Host {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            memory: memory(&meminfo).unwrap_or_default(),
        }
    }

    /// Virtual CPUs of a machine for which nothing is said.
    pub fn default_cpus(self) -> NonZeroU32 {
        NonZeroU32::new((self.cores / 2).max(4)).unwrap_or(NonZeroU32::MIN)
    }

    /// Refuses a machine that the host cannot run.
    pub fn check(self, boot: &BootConfiguration) -> Result<(), TooMuch> {
        let most = self.cores.saturating_mul(CPUS_PER_CORE).max(ALWAYS_CPUS);
        if boot.cpus.get() > most {
            return Err(TooMuch::Cpus {
                asked: boot.cpus.get(),
                cores: self.cores,
                most,
            });
        }
        if self.memory > 0 && boot.memory.bytes() > self.memory {
            return Err(TooMuch::Memory {
                asked: boot.memory.bytes() >> 20,
                memory: self.memory >> 20,
            });
        }
        Ok(())
    }
}

/// `MemTotal` of `/proc/meminfo` (proc_meminfo(5)), in bytes.
fn memory(meminfo: &str) -> Option<u64> {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Configuration, changed};

    #[test]
    fn what_the_host_cannot_give_is_refused() {
        let host = Host {
            cores: 2,
            memory: 8 << 30,
        };
        let with = |cpus: u32, memory: &str| {
            let change = container_api::BootChange {
                cpus: NonZeroU32::new(cpus),
                memory: Some(memory.parse().unwrap()),
                ..Default::default()
            };
            host.check(&changed(Configuration::default().boot_defaults(), &change))
        };
        assert_eq!(with(16, "8G"), Ok(()));
        assert!(matches!(
            with(17, "1G"),
            Err(TooMuch::Cpus { most: 16, .. })
        ));
        assert!(matches!(
            with(1, "9G"),
            Err(TooMuch::Memory { memory: 8192, .. })
        ));
    }

    #[test]
    fn a_machine_gets_half_the_cores_and_four_at_least() {
        let cpus = |cores| Host { cores, memory: 0 }.default_cpus().get();
        assert_eq!((cpus(2), cpus(24)), (4, 12));
        assert_eq!(memory("MemTotal:  2048 kB\n"), Some(2 << 20));
    }
}
