//! What the user's last logout ends.

use std::path::Path;

use nix::unistd::{User, geteuid};
use tokio::time::timeout;
use zbus::OwnedVariant;

use crate::{
    TIMEOUT,
    manager::{Manager, NoManager},
};

/// Directory with a file for each user who lingers (loginctl(1), `enable-linger`).
const LINGER: &str = "/var/lib/systemd/linger";

/// What happens to running machines when the user's last session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logout {
    /// They continue, for this reason.
    Continues(&'static str),
    /// They are stopped, for this reason.
    Stops(&'static str),
}

/// Returns what happens to this user's running machines at a logout.
pub async fn at_logout() -> Logout {
    match Manager::of_user() {
        Err(NoManager::NotBooted) => Logout::Continues("systemd is not the init system"),
        Ok(manager) if manager.is_of_system => {
            Logout::Continues("root's machines belong to the system's service manager")
        }
        Ok(_) if lingers(Path::new(LINGER)) => Logout::Continues("lingering is enabled"),
        Ok(_) => Logout::Stops(
            "the last logout ends the user's service manager (keep it with: loginctl \
             enable-linger)",
        ),
        Err(NoManager::NoBus(_)) => match timeout(TIMEOUT, kills_processes()).await {
            Ok(Ok(false)) => Logout::Continues("logind does not end the processes of a session"),
            Ok(Ok(true)) => Logout::Stops("KillUserProcesses= is set in logind.conf"),
            Ok(Err(_)) | Err(_) => Logout::Stops(
                "the user has no service manager (start one with: loginctl enable-linger)",
            ),
        },
    }
}

fn lingers(directory: &Path) -> bool {
    let user = User::from_uid(geteuid()).ok().flatten();
    user.is_some_and(|user| directory.join(user.name).exists())
}

/// Returns whether systemd-logind ends the processes of a session with it.
async fn kills_processes() -> zbus::Result<bool> {
    let manager = Manager::of_system().map_err(|error| zbus::Error::Failure(error.to_string()))?;
    let reply = manager
        .connect()
        .await?
        .call_method(
            Some("org.freedesktop.login1"),
            "/org/freedesktop/login1",
            Some("org.freedesktop.DBus.Properties"),
            "Get",
            &("org.freedesktop.login1.Manager", "KillUserProcesses"),
        )
        .await?;
    let value: OwnedVariant = reply.body().deserialize()?;
    bool::try_from(value)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn user_lingers_with_a_file_of_that_name() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!lingers(directory.path()));
        let user = User::from_uid(geteuid()).unwrap().unwrap();
        fs::write(directory.path().join(user.name), "").unwrap();
        assert!(lingers(directory.path()));
    }
}
