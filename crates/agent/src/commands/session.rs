//! The login session of the machine's user, under systemd.
//!
//! One session for all commands of the user, from the first command to the machine's stop. Its
//! leader is a process of the agent, [`leader`](super::session_leader), which systemd-logind
//! starts the user's service manager for. Together with lingering, which the first boot enables,
//! `systemctl --user` works in every command and after the last one.
//!
//! Without logind or D-Bus in the image, commands run without a session. Where one of them only
//! failed or was slow, a later command opens the session.

use std::{io, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe,
    process::Child,
    sync::Mutex,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::{
    session_leader,
    spawn::{self, SpawnError},
};
use crate::{
    init::InitProcess,
    kernel_log,
    machine::{GuestRoot, runtime_directory},
};

/// What a command of the session needs.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// logind's id of the session.
    pub id: String,
    /// The session's cgroup, in the agent's cgroup namespace.
    pub cgroup: PathBuf,
}

/// The session of the machine's user, opened by the first command.
#[derive(Debug, Default)]
pub(super) struct UserSession {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    NotOpened,
    /// The leader waits for logind, which may take longer than a command waits. A leader that is
    /// killed meanwhile would leave a failed unit behind.
    Opening(JoinHandle<Result<(Child, Session), SessionError>>),
    Open {
        /// Reaps the leader: the machine's init cannot, and a shutdown would wait for it.
        leader: JoinHandle<()>,
        session: Session,
    },
    /// No session could be opened.
    Failed {
        /// Time of the next attempt. Until then commands do not wait again for a logind that hangs.
        retry: Instant,
    },
}

/// Time after a failure in which no session is opened.
const RETRY: Duration = Duration::from_secs(30);

/// There is no session for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSession {
    /// The machine has no logind, or an attempt has failed before.
    Unavailable,
    /// logind has not answered in time.
    TimedOut,
}

/// Returns the environment variables of a command of this user that depend on a session.
///
/// The runtime directory also exists without a session. Users who have not logged in have none.
pub(super) fn variables(
    root: &GuestRoot,
    uid: u32,
    session: Option<&Session>,
) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    let directory = runtime_directory(uid);
    let owner = root.locate(&directory).and_then(|directory| {
        let found = rustix::fs::fstat(directory)?;
        Ok(found.st_uid)
    });
    if owner.is_ok_and(|owner| owner == uid) {
        let bus = format!("{directory}/bus");
        if root.exists(&bus) {
            variables.push(("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={bus}")));
        }
        variables.push(("XDG_RUNTIME_DIR", directory));
    }
    if let Some(session) = session {
        variables.push(("XDG_SESSION_ID", session.id.clone()));
    }
    variables
}

/// Error of opening a session. Commands run without one.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("cannot start the session's process: {0}")]
    Start(io::Error),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("{0}")]
    Refused(String),
}

impl UserSession {
    /// Returns the session, which is opened if necessary. Waits for the user's service manager,
    /// until `deadline` at most; later commands do not wait again.
    pub(super) async fn get(
        &self,
        init: &InitProcess,
        uid: u32,
        deadline: Instant,
    ) -> Result<Session, NoSession> {
        let mut state = self.state.lock().await;
        if let State::Open { leader, session } = &mut *state {
            // A user may end the session (`loginctl terminate-session`).
            if !leader.is_finished() && session.cgroup.exists() {
                return Ok(session.clone());
            }
            *state = State::NotOpened;
        }
        if let State::Failed { retry } = *state
            && Instant::now() < retry
        {
            return Err(NoSession::Unavailable);
        }
        let is_late = matches!(*state, State::Opening(_));
        if !is_late {
            *state = State::Opening(tokio::spawn(open(init.clone(), uid)));
        }
        let State::Opening(opening) = &mut *state else {
            unreachable!("the session is being opened");
        };
        if is_late && !opening.is_finished() {
            return Err(NoSession::Unavailable);
        }
        let Ok(opened) = timeout_at(deadline, opening).await else {
            kernel_log::error("timed out opening a login session of the user");
            return Err(NoSession::TimedOut);
        };
        match opened.unwrap_or_else(|error| Err(SessionError::Start(error.into()))) {
            Ok((leader, session)) => {
                *state = State::Open {
                    leader: tokio::spawn(reap(leader)),
                    session: session.clone(),
                };
                Ok(session)
            }
            Err(error) => {
                kernel_log::error(&format!("the user has no login session: {error}"));
                let retry = Instant::now() + RETRY;
                *state = State::Failed { retry };
                Err(NoSession::Unavailable)
            }
        }
    }
}

/// Starts the leader, and waits until logind has opened the session.
async fn open(init: InitProcess, uid: u32) -> Result<(Child, Session), SessionError> {
    let (output, report) = pipe::pipe().map_err(SessionError::Start)?;
    let output = output.into_blocking_fd().map_err(SessionError::Start)?;
    let mut streams = spawn::StandardStreams::null().map_err(SessionError::Start)?;
    streams.stdout = output;
    let login = session_leader::login(uid);
    let started = spawn::in_machine(init.pid, login, streams, None).await?;
    let mut leader = started.child;
    let mut line = String::new();
    let mut report = BufReader::new(report);
    // The leader has a timeout of its own.
    let answer = match report.read_line(&mut line).await {
        Ok(_) => session_leader::parse_report(&line).map_err(SessionError::Refused),
        Err(error) => Err(SessionError::Start(error)),
    };
    let process = leader.id().unwrap_or_default();
    let session = answer.and_then(|id| {
        let cgroup = cgroup_of(process).map_err(SessionError::Start)?;
        Ok(Session { id, cgroup })
    });
    if session.is_err() {
        // Fails only if it has ended by itself.
        let _ = leader.start_kill();
    }
    Ok((leader, session?))
}

async fn reap(mut leader: Child) {
    // The result does not matter: the next command opens another session.
    let _ = leader.wait().await;
}

/// Returns the directory of a process's cgroup.
fn cgroup_of(process: u32) -> io::Result<PathBuf> {
    let line = std::fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let path = line.trim_end().strip_prefix("0::/").unwrap_or_default();
    Ok(PathBuf::from("/sys/fs/cgroup").join(path))
}
