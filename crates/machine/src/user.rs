//! Whose machine it is.

use std::{io, path::PathBuf};

use nix::unistd::{Uid, User, getgid, getuid};
use serde::{Deserialize, Serialize};

/// The user of whoever created the machine, who is its user too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSetup {
    /// Login name.
    pub username: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

impl UserSetup {
    /// The user that runs this process.
    pub fn current() -> io::Result<UserSetup> {
        let (uid, gid) = (getuid(), getgid());
        Ok(UserSetup {
            username: account(uid)?.name,
            uid: uid.as_raw(),
            gid: gid.as_raw(),
        })
    }
}

/// The home directory of the user that runs this process: `$HOME`, else the account's.
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
            format!("user {uid} has no account on this host"),
        )
    })
}
