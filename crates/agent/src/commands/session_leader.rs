//! The leader of the user's login session: a process of the agent's own program in the machine.
//!
//! It asks systemd-logind for the session as `pam_systemd` does, reports the session's id on
//! standard output, and keeps the session open by its existence and by a descriptor of logind's.
//! It belongs to root, so the user's `kill -1` does not end it.

use std::{io, process::ExitCode, time::Duration};

use nix::unistd::pause;
use zbus::{Connection, OwnedFd, OwnedObjectPath, Variant, connection};

use super::{
    environment::Environment,
    limits::Limits,
    login::{Login, Preference, Program},
};

/// Zeroth argument of the process, and its name in the machine.
pub(crate) const NAME: &str = "container-session";

/// Address of the system bus (D-Bus specification, "System message bus").
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// Beginning of a report that contains an error instead of the session's id.
const ERROR: &str = "error: ";

/// Timeout for logind, which waits until the user's service manager has started.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Returns the process that leads a session of the user.
pub(super) fn login(uid: u32) -> Login {
    Login {
        programs: vec![Program {
            path: "/proc/self/exe".into(),
            arguments: vec![NAME.into(), uid.to_string().into()],
            is_shell: false,
        }],
        line: None,
        environment: Environment::default(),
        uid: 0,
        gid: 0,
        groups: vec![0],
        directories: vec![c"/".to_owned()],
        directory: Preference::None,
        limits: Limits::default(),
    }
}

/// Returns the session's id, or the error, of the leader's report.
pub(super) fn parse_report(line: &str) -> Result<String, String> {
    let line = line.trim_end();
    match line.strip_prefix(ERROR) {
        Some(error) => Err(error.to_owned()),
        None if line.is_empty() => Err("the session's process ended".to_owned()),
        None => Ok(line.to_owned()),
    }
}

/// Runs as the leader until it is killed.
pub(crate) fn run() -> ExitCode {
    // The name in process lists. Not essential.
    let _ = nix::sys::prctl::set_name(c"container-sessi");
    let uid = std::env::args().nth(1).and_then(|uid| uid.parse().ok());
    let opened = match uid {
        Some(uid) => open(uid).map_err(|error| error.to_string()),
        None => Err("invalid arguments of a session".to_owned()),
    };
    match opened {
        Ok((id, _held_open)) => {
            report(&id);
            loop {
                pause();
            }
        }
        Err(error) => {
            report(&format!("{ERROR}{error}"));
            ExitCode::FAILURE
        }
    }
}

fn report(line: &str) {
    use io::Write;
    let line = line.replace('\n', " ");
    // Fails only if the agent does not wait any more.
    let _ = writeln!(io::stdout(), "{line}");
}

fn open(uid: u32) -> zbus::Result<(String, OwnedFd)> {
    let events = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    events.block_on(create_session(uid))
}

/// Result of `CreateSession` (org.freedesktop.login1(5)): the session's id, its object, the user's
/// runtime directory, the descriptor that keeps it open, uid, seat, terminal and whether the
/// session existed before.
type Created = (
    String,
    OwnedObjectPath,
    String,
    OwnedFd,
    u32,
    String,
    u32,
    bool,
);

/// Asks logind for a session of the user with this process as its leader.
async fn create_session(uid: u32) -> zbus::Result<(String, OwnedFd)> {
    let bus: Connection = connection::Builder::address(SYSTEM_BUS)
        .method_timeout(TIMEOUT)
        .build()
        .await?;
    let properties: Vec<(&str, Variant<'_>)> = Vec::new();
    let arguments = (
        uid,
        std::process::id(),
        "container",   // service
        "unspecified", // type
        "user",        // class
        "",            // desktop
        "",            // seat
        0u32,          // virtual terminal
        "",            // terminal
        "",            // display
        false,         // remote
        "",            // remote user
        "",            // remote host
        properties,
    );
    let reply = bus
        .call_method(
            Some("org.freedesktop.login1"),
            "/org/freedesktop/login1",
            Some("org.freedesktop.login1.Manager"),
            "CreateSession",
            &arguments,
        )
        .await?;
    let created: Created = reply.body().deserialize()?;
    Ok((created.0, created.3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_an_id_or_an_error() {
        assert_eq!(parse_report("c1\n"), Ok("c1".to_owned()));
        assert_eq!(parse_report("error: no bus\n"), Err("no bus".to_owned()));
        assert!(parse_report("").is_err());
    }
}
