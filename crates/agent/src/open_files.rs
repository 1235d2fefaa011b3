//! Limit of open files of the agent. A command has about ten, and a relayed connection two.

use std::{fs, io};

use nix::sys::resource::{Resource, rlim_t, setrlimit};

/// Limits that the kernel starts PID 1 with (`INIT_RLIMITS`).
const OF_INIT: (rlim_t, rlim_t) = (1024, 4096);

/// Default maximum of the kernel (`fs.nr_open`).
const DEFAULT_MAXIMUM: rlim_t = 1 << 20;

/// Returns the maximum of a limit on open files, above which setrlimit(2) fails.
pub(crate) fn maximum() -> rlim_t {
    let text = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    text.trim().parse().unwrap_or(DEFAULT_MAXIMUM)
}

/// Raises the limit of this process to the maximum.
pub(crate) fn raise_limit() -> io::Result<()> {
    let maximum = maximum();
    Ok(setrlimit(Resource::RLIMIT_NOFILE, maximum, maximum)?)
}

/// Sets the limit of this process to what an init expects.
pub(crate) fn set_limit_of_init() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, OF_INIT.0, OF_INIT.1)?)
}
