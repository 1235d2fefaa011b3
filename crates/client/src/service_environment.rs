//! Environment of the service and of the processes that it starts: a part of the environment of the
//! client that has started it.

use std::{env, ffi::OsString};

/// Variables that locate files and programs. Others, such as `TMPDIR` and `LD_LIBRARY_PATH`, belong
/// to the client's shell or job, which the service outlives. Requests carry those that concern
/// images.
const NAMES: [&str; 9] = [
    "HOME",
    "LOGNAME",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "USER",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
];

/// Variables of this program that the service reads. Others that begin with `CONTAINER_`, such as
/// `CONTAINER_SSHKEY`, are Podman's.
const OWN: [&str; 2] = ["CONTAINER_ACCELERATOR", "CONTAINER_TEMPLATES"];

/// Returns the variables of this process that the service gets.
pub(crate) fn service_environment() -> impl Iterator<Item = (OsString, OsString)> {
    env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_kept))
}

fn is_kept(name: &str) -> bool {
    NAMES.contains(&name) || is_own(name)
}

/// Returns whether a variable is one of this program's that the service reads.
pub(crate) fn is_own(name: &str) -> bool {
    OWN.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::is_kept;

    #[test]
    fn variables_of_a_shell_are_not_kept() {
        for name in [
            "HOME",
            "XDG_DATA_HOME",
            "CONTAINER_ACCELERATOR",
            "CONTAINER_TEMPLATES",
        ] {
            assert!(is_kept(name), "{name}");
        }
        for name in [
            "TMPDIR",
            "LD_LIBRARY_PATH",
            "LD_PRELOAD",
            "SSH_AUTH_SOCK",
            "PWD",
            "CONTAINER_HOST",
            "CONTAINER_SSHKEY",
            "CONTAINER_X",
        ] {
            assert!(!is_kept(name), "{name}");
        }
    }
}
