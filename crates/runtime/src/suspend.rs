//! Suspending a machine: from one that serves commands to its saved memory.
//!
//! Whatever fails before the saved memory is published, the machine continues. Afterwards its
//! engine only ends.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use container_engine::{EngineExit, ResumeError, Running, SaveError};
use container_file_share::{ShareReply, ShareRequest};
use container_network::{HeldSockets, Network};
use container_protocol::{ResumeToken, frame::FrameError, local::SuspendReply};
use tokio::{
    sync::oneshot,
    task::{JoinError, spawn_blocking},
    time::{sleep, timeout},
};

use crate::{
    agent_control::AgentControl,
    boot_error::BootError,
    entropy::read_random,
    file_identity::FileIdentity,
    guest_link::{GuestLink, ResumeLinkError},
    launch::Launch,
    resolver,
    shares::Shares,
    state::{MachineState, SuspendOccasion, SuspendOrder},
    suspended::{Surroundings, Unpublished, read_guest_files},
};

/// Timeout for an engine to end that has failed.
pub(crate) const ENGINE_TIMEOUT: Duration = Duration::from_secs(2);

/// Time in which the connections of commands that have just ended are closed.
const SESSION_END: Duration = Duration::from_secs(1);

/// Time in which the end of the control stream is written to the channel.
const FLUSH_TIME: Duration = Duration::from_millis(20);

/// The parts of a running machine that take part in a suspension.
pub(crate) struct Suspension {
    pub engine: Box<dyn Running>,
    pub shares: Shares,
    /// Absent if only the disk is read.
    pub network: Option<Arc<Network>>,
    pub link: GuestLink,
    pub agent: AgentControl,
    /// Whether the agent waits to be resumed.
    pub is_agent_waiting: bool,
}

/// What the machine was booted with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub fingerprint: &'a str,
    pub guest_files: &'a [FileIdentity],
}

/// Outcome of a suspension.
pub(crate) enum Outcome {
    /// The machine is suspended. The ports of one that was idle are held.
    Suspended(Option<HeldSockets>),
    /// The machine could not be suspended, and continues.
    Continues(Box<Suspension>, SuspendError),
    /// The machine could not be suspended, and its engine has ended.
    Lost(EngineExit),
}

/// A machine cannot be suspended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuspendError {
    #[error("commands run in the machine, or its sockets are in use (to end them, use --force)")]
    Sessions,
    #[error("the machine is in use")]
    Used,
    #[error("a processor with virtualization cannot be saved")]
    Virtualization,
    #[error(
        "this program was updated after the machine had booted, and the new version could not \
         resume it (restart the machine with: container machine restart)"
    )]
    Updated,
    #[error("the machine is not up")]
    NotUp,
    #[error("{0}")]
    InUse(String),
    #[error("cannot ask the process that shares a directory: {0}")]
    FileShare(FrameError),
    #[error("{0}")]
    Agent(String),
    #[error(transparent)]
    Link(#[from] ResumeLinkError),
    #[error(transparent)]
    GuestFiles(#[from] BootError),
    #[error("cannot read random bytes: {0}")]
    Random(io::Error),
    #[error("cannot write the machine's memory to {}: {cause}", path.display())]
    Write { path: PathBuf, cause: io::Error },
    #[error("a thread has panicked: {0}")]
    Panicked(JoinError),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error("cancelled")]
    Cancelled,
}

impl From<JoinError> for SuspendError {
    fn from(cause: JoinError) -> SuspendError {
        SuspendError::Panicked(cause)
    }
}

/// A machine that could not be suspended does not continue either.
#[derive(Debug, thiserror::Error)]
enum ContinueError {
    #[error(transparent)]
    Engine(#[from] ResumeError),
    #[error(transparent)]
    Link(#[from] ResumeLinkError),
    #[error("cannot ask the process that shares a directory: {0}")]
    FileShare(FrameError),
}

impl SuspendError {
    fn reply(&self) -> SuspendReply {
        match self {
            SuspendError::Sessions
            | SuspendError::Used
            | SuspendError::Virtualization
            | SuspendError::Updated
            | SuspendError::NotUp
            | SuspendError::InUse(_) => SuspendReply::Refused(self.to_string()),
            _ => SuspendReply::Failed(self.to_string()),
        }
    }
}

impl Suspension {
    /// Suspends the machine, and answers the order.
    pub(crate) async fn run(
        mut self,
        order: SuspendOrder,
        origin: Origin<'_>,
        launch: &Launch,
        machine: &MachineState,
    ) -> Outcome {
        let SuspendOrder {
            occasion,
            mut reply,
        } = order;
        let checked = self.check(occasion, origin, launch, machine).await;
        let (surroundings, token) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                // Fails if the client has disconnected, here and below.
                let _ = reply.send(error.reply());
                return Outcome::Continues(Box::new(self), error);
            }
        };
        let saved = match self.pause(occasion, token, machine).await {
            Ok(()) => {
                self.save(launch, machine, surroundings, token, &mut reply)
                    .await
            }
            Err(error) => Err(error),
        };
        let Err(error) = saved else {
            let held = match occasion {
                SuspendOccasion::Idle { .. } => self.hold().await,
                SuspendOccasion::Requested { .. } => None,
            };
            let _ = reply.send(SuspendReply::Suspended);
            self.engine.terminate().await;
            return Outcome::Suspended(held);
        };
        match self.proceed(token).await {
            Ok(()) => {
                resolver::follow_host(self.link.opener.clone(), machine);
                machine.end_suspension(self.link.opener.clone());
                let _ = reply.send(error.reply());
                Outcome::Continues(Box::new(self), error)
            }
            Err(lost) => {
                let message = format!("{error}; the machine does not continue: {lost}");
                let _ = reply.send(SuspendReply::Failed(message.clone()));
                let exit = timeout(ENGINE_TIMEOUT, self.engine.wait()).await;
                self.engine.terminate().await;
                Outcome::Lost(exit.unwrap_or(EngineExit::Failed(message)))
            }
        }
    }

    /// Checks that the machine can be suspended, and begins to. Returns what is needed to continue
    /// it.
    async fn check(
        &mut self,
        occasion: SuspendOccasion,
        origin: Origin<'_>,
        launch: &Launch,
        machine: &MachineState,
    ) -> Result<(Surroundings, ResumeToken), SuspendError> {
        if launch.virtualization {
            return Err(SuspendError::Virtualization);
        }
        if occasion == (SuspendOccasion::Requested { force: false }) {
            let ended = timeout(SESSION_END, machine.sessions_ended()).await;
            ended.map_err(|_| SuspendError::Sessions)?;
        }
        if !origin.guest_files.iter().all(FileIdentity::is_current) {
            return Err(SuspendError::Updated);
        }
        let token = read_random().map_err(SuspendError::Random)?;
        let guest_files = read_guest_files(&launch.architecture)?;
        self.ask_file_share(ShareRequest::Check).await?;
        if !machine.begin_suspension() {
            return Err(SuspendError::NotUp);
        }
        let surroundings = Surroundings {
            fingerprint: origin.fingerprint.to_owned(),
            guest_files,
        };
        Ok((surroundings, ResumeToken::new(token)))
    }

    /// Ends everything that connects the guest with the host. Connections and commands of clients
    /// end, unless the machine is suspended because it is idle: then it is not suspended.
    async fn pause(
        &mut self,
        occasion: SuspendOccasion,
        token: ResumeToken,
        machine: &MachineState,
    ) -> Result<(), SuspendError> {
        match (&self.network, occasion) {
            (Some(network), SuspendOccasion::Requested { .. }) => network.pause().await,
            (Some(network), SuspendOccasion::Idle { network_uses }) => {
                // From here on no client is connected to the guest, and no connection accepted.
                if machine.has_sessions() || !network.pause_if_idle(network_uses).await {
                    return Err(SuspendError::Used);
                }
            }
            (None, _) => {}
        }
        let prepared = self.agent.prepare_suspension(token).await;
        prepared.map_err(SuspendError::Agent)?;
        self.is_agent_waiting = true;
        self.agent.close_completely().await;
        sleep(FLUSH_TIME).await;
        self.link.close(token).await?;
        self.ask_file_share(ShareRequest::Pause).await
    }

    /// Saves the machine. Until the end it may still continue, and does if the client disconnects.
    async fn save(
        &mut self,
        launch: &Launch,
        machine: &MachineState,
        surroundings: Surroundings,
        token: ResumeToken,
        reply: &mut oneshot::Sender<SuspendReply>,
    ) -> Result<(), SuspendError> {
        let failed = |cause| SuspendError::Write {
            path: launch.suspended.clone(),
            cause,
        };
        let unpublished = Unpublished::create(&launch.suspended).map_err(failed)?;
        let memory = unpublished.memory();
        tokio::select! {
            saved = self.engine.save(&memory) => saved?,
            () = reply.closed() => return Err(SuspendError::Cancelled),
        }
        let completed = spawn_blocking({
            let launch = Launch {
                disk: machine.disk_file(),
                ..launch.clone()
            };
            let mounts = self.shares.attached();
            move || {
                unpublished.complete(&launch, mounts, &surroundings, token, false)?;
                Ok(unpublished)
            }
        });
        let completed: io::Result<Unpublished> = completed.await?;
        completed.and_then(Unpublished::publish).map_err(failed)
    }

    /// Returns the machine's open ports, which are closed otherwise.
    async fn hold(&mut self) -> Option<HeldSockets> {
        let held = self.network.as_ref()?.hold().await;
        let held = held.inspect_err(|error| {
            tracing::warn!("cannot hold the ports of the suspended machine: {error}");
        });
        held.ok()
    }

    /// Continues a machine that was not saved.
    async fn proceed(&mut self, token: ResumeToken) -> Result<(), ContinueError> {
        self.engine.resume().await?;
        let continued = self.shares.request(ShareRequest::Continue).await;
        continued.map_err(ContinueError::FileShare)?;
        if let Some(network) = &self.network {
            network.resume();
        }
        if std::mem::take(&mut self.is_agent_waiting) {
            let (control, _) = self.link.renew(token).await?;
            self.agent = self.agent.renewed(control);
        }
        Ok(())
    }

    async fn ask_file_share(&mut self, request: ShareRequest) -> Result<(), SuspendError> {
        let reply = self.shares.request(request).await;
        match reply.map_err(SuspendError::FileShare)? {
            ShareReply::Done { .. } => Ok(()),
            ShareReply::Refused(reason) => Err(SuspendError::InUse(reason)),
        }
    }
}
