//! What a command waits for before it starts.
//!
//! | command of | waits for |
//! |---|---|
//! | the machine's user | the boot to have [settled](InitProcess::settle), and the user's session |
//! | root and other users | the boot to have settled |
//! | anybody with `--wait-boot` | the same, and services to be started |
//! | anybody with `--no-wait` | nothing |

use std::time::Duration;

use container_protocol::Start;
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep},
};

use super::session::{NoSession, Session, UserSession};
use crate::init::{InitProcess, NotReached};

/// Time after which a waiting command says what it waits for.
const SLOW: Duration = Duration::from_secs(20);

/// Note about a command that waits.
pub(super) const WAITING: &str = "The machine is still booting; the command starts when it can \
                                  (--no-wait starts it at once).";

/// Note about a command that has waited in vain.
pub(super) const NOT_SETTLED: &str = "The machine's boot is not complete after 2 minutes (see: \
                                      container machine logs). The command starts anyway; its \
                                      files in /tmp and /run may be removed or hidden later.";

/// Note about a command that has waited for services in vain.
pub(super) const NO_SERVICES: &str = "The machine's services are not all started after 10 minutes \
                                      (see: container machine logs). The command starts anyway.";

/// Note about a command without a session because logind is slow.
pub(super) const NO_SESSION: &str = "systemd-logind does not answer, so the command has no login \
                                     session: systemctl --user and other programs that need one \
                                     may fail. A later command tries again.";

/// The boot of the machine, as far as commands are concerned.
#[derive(Debug)]
pub(super) struct Boot {
    /// The machine's init.
    pub init: InitProcess,
    uid: u32,
    settled: OnceCell<Result<(), NotReached>>,
    services: OnceCell<Result<(), NotReached>>,
    session: UserSession,
}

impl Boot {
    pub(super) fn new(init: InitProcess, uid: u32) -> Boot {
        Boot {
            init,
            uid,
            settled: OnceCell::new(),
            services: OnceCell::new(),
            session: UserSession::default(),
        }
    }

    /// Waits until a command may start.
    pub(super) async fn wait(&self, start: Start) -> Result<(), NotReached> {
        if start == Start::Immediate {
            return Ok(());
        }
        (*self.settled.get_or_init(|| self.init.settle()).await)?;
        if start == Start::Services {
            let services = self.services.get_or_init(|| self.init.start_services());
            (*services.await)?;
        }
        Ok(())
    }

    /// Returns the login session for a command of this user. Only the machine's user has one, under
    /// systemd.
    pub(super) async fn session(&self, uid: u32, start: Start) -> Result<Session, NoSession> {
        let is_systemd = matches!(&self.init.program,
            container_protocol::InitProgram::OfImage(program) if program.ends_with("/systemd"));
        if start == Start::Immediate || uid != self.uid || !is_systemd {
            return Err(NoSession::Unavailable);
        }
        let deadline = self.init.settle_deadline.max(Instant::now() + SLOW);
        self.session.get(&self.init, uid, deadline).await
    }
}

/// Calls `note` if `work` takes long, and returns its result.
pub(super) async fn with_note<T>(work: impl Future<Output = T>, note: impl AsyncFnOnce()) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = sleep(SLOW) => {}
    }
    note().await;
    work.await
}
