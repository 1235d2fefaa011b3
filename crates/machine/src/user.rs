//! The user of a machine.

use std::{io, path::PathBuf};

use nix::unistd::{Uid, User, getgid, getuid};
use serde::{Deserialize, Serialize};

/// User of a machine: the user of the host who created it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSetup {
    /// Login name.
    pub username: String,
    /// User id, the same on the host and in the machine.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

impl UserSetup {
    /// Returns the user that runs this process.
    pub fn current() -> io::Result<UserSetup> {
        let (uid, gid) = (getuid(), getgid());
        Ok(UserSetup {
            username: account(uid)?.name,
            uid: uid.as_raw(),
            gid: gid.as_raw(),
        })
    }
}

/// Returns the home directory of the user that runs this process: `$HOME`, or that of the account
/// if the variable is empty or missing.
pub fn home_directory() -> io::Result<PathBuf> {
    match std::env::var_os("HOME") {
        Some(home) if !home.is_empty() => Ok(PathBuf::from(home)),
        _ => Ok(account(getuid())?.dir),
    }
}

fn account(uid: Uid) -> io::Result<User> {
    User::from_uid(uid)?.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("user id {uid} not found in the user database of this host"),
        )
    })
}
