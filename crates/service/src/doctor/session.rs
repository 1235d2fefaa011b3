//! The user's sessions: systemd's user manager, and what ends at a logout.

use std::{fs, os::unix::net::UnixStream, path::Path};

use container_api::Check;
use container_machine::UserSetup;

/// Directories and file with the settings of logins, in the order in which they apply
/// (logind.conf(5)).
const LOGIND: [&str; 4] = [
    "/etc/systemd/logind.conf",
    "/usr/lib/systemd/logind.conf.d",
    "/run/systemd/logind.conf.d",
    "/etc/systemd/logind.conf.d",
];

/// What is known of the user's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sessions {
    /// Whether a user manager answers.
    has_manager: bool,
    /// Whether the user manager runs without a login (loginctl(1), `enable-linger`).
    lingers: bool,
    /// Whether a logout kills everything that was started in the session.
    kills: bool,
}

/// Checks the user manager and what a logout ends. Without systemd there is nothing to check.
pub(super) fn checks() -> Vec<Check> {
    // sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        let message = "this host does not run systemd, which would end machines at a logout";
        return vec![Check::ok("logout", message)];
    }
    match UserSetup::current() {
        Ok(user) => judge(Sessions::read(&user), &user.username),
        Err(error) => vec![Check::warning("user-manager", error.to_string())],
    }
}

fn judge(sessions: Sessions, user: &str) -> Vec<Check> {
    let linger = format!("loginctl enable-linger {user}");
    let manager = if sessions.has_manager {
        Check::ok("user-manager", "systemd's user manager answers")
    } else {
        Check::warning(
            "user-manager",
            "systemd's user manager does not answer, so the runtime directory may be removed while \
             machines run",
        )
        .with_fix(linger.clone())
    };
    let logout = if sessions.lingers {
        Check::ok("logout", "machines keep running (lingering is enabled)")
    } else if sessions.kills {
        Check::warning(
            "logout",
            "machines are killed when you log out (KillUserProcesses=yes in logind.conf)",
        )
        .with_fix(format!("{linger}, and KillUserProcesses=no"))
    } else {
        Check::ok(
            "logout",
            format!(
                "machines that were started in a desktop session end with it ({linger} keeps them)"
            ),
        )
    };
    vec![manager, logout]
}

impl Sessions {
    fn read(user: &UserSetup) -> Sessions {
        let manager = format!("/run/user/{}/systemd/private", user.uid);
        let linger = Path::new("/var/lib/systemd/linger").join(&user.username);
        Sessions {
            has_manager: UnixStream::connect(manager).is_ok(),
            lingers: linger.exists(),
            kills: kills_at_logout(&logind_settings()),
        }
    }
}

/// Returns the text of all settings, those that win last.
fn logind_settings() -> String {
    let mut text = String::new();
    for path in LOGIND.map(Path::new) {
        let mut files = vec![path.to_owned()];
        if let Ok(entries) = fs::read_dir(path) {
            files = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
        }
        for file in files {
            text.push_str(&fs::read_to_string(file).unwrap_or_default());
            text.push('\n');
        }
    }
    text
}

fn kills_at_logout(settings: &str) -> bool {
    let mut values = settings
        .lines()
        .filter_map(|line| line.trim().strip_prefix("KillUserProcesses="));
    let last = values.next_back().map(str::trim);
    last.is_some_and(|value| matches!(value, "yes" | "true" | "on" | "1"))
}

#[cfg(test)]
mod tests {
    use container_api::CheckStatus;

    use super::*;

    #[test]
    fn the_last_setting_counts() {
        assert!(!kills_at_logout("[Login]\n#KillUserProcesses=yes\n"));
        assert!(kills_at_logout(
            "KillUserProcesses=no\n KillUserProcesses=yes\n"
        ));
        assert!(!kills_at_logout(
            "KillUserProcesses=yes\nKillUserProcesses=no\n"
        ));
    }

    #[test]
    fn lingering_is_the_fix() {
        let mut sessions = Sessions {
            has_manager: false,
            lingers: false,
            kills: true,
        };
        for check in judge(sessions, "ann") {
            assert_eq!(check.status, CheckStatus::Warning);
            assert!(check.fix.unwrap().starts_with("loginctl enable-linger ann"));
        }
        sessions.has_manager = true;
        sessions.kills = false;
        let checks = judge(sessions, "ann");
        assert!(checks.iter().all(|check| check.status == CheckStatus::Ok));
    }
}
