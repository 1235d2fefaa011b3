//! Saving a machine that continues: a snapshot of its disk and its memory.
//!
//! The machine is only paused while its memory is written. Its connections and the commands in it
//! notice nothing, because everything on the host continues with it: nothing is written to the
//! agent meanwhile except whole frames ([`pausable`](crate::pausable)), and the file share
//! completes its requests. In a copy that is restored later, all these have ended.
//!
//! Whatever fails, the machine continues.

use std::{io, path::PathBuf};

use container_engine::{EngineExit, LiveDiskError, ResumeError, Running, SaveError};
use container_file_share::{ShareReply, ShareRequest};
use container_protocol::{ResumeToken, frame::FrameError, local::SnapshotReply};
use tokio::{
    sync::oneshot,
    task::{JoinError, spawn_blocking},
    time::timeout,
};

use crate::{
    agent_control::AgentControl,
    boot_error::BootError,
    entropy::read_random,
    file_identity::FileIdentity,
    guest_link::GuestLink,
    launch::Launch,
    shares::Shares,
    state::{MachineState, SnapshotOrder},
    suspend::{ENGINE_TIMEOUT, Origin},
    suspended::{Surroundings, Unpublished, read_guest_files},
};

/// The parts of a running machine that take part in a snapshot.
pub(crate) struct Parts<'a> {
    pub engine: &'a mut dyn Running,
    pub shares: &'a mut Shares,
    pub link: &'a GuestLink,
    pub agent: &'a mut AgentControl,
}

/// A machine cannot be saved. Its disk is the same file.
#[derive(Debug, thiserror::Error)]
enum RefusedError {
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
    #[error("the machine is paused, because the host cannot write its disk ({0})")]
    Paused(String),
    #[error(transparent)]
    Disk(LiveDiskError),
    #[error("the machine's agent does not read: {0}")]
    Channel(io::Error),
    #[error(transparent)]
    GuestFiles(#[from] BootError),
    #[error("cannot read random bytes: {0}")]
    Random(io::Error),
}

/// A machine could not be saved.
#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error(transparent)]
    Refused(#[from] RefusedError),
    #[error("cannot write the machine's memory: {0}")]
    Write(io::Error),
    #[error(transparent)]
    Disk(LiveDiskError),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error("a thread has panicked: {0}")]
    Panicked(JoinError),
    #[error("cancelled")]
    Cancelled,
    #[error("the machine does not continue: {0}")]
    Lost(LostReason),
}

/// Why a machine does not continue.
#[derive(Debug, thiserror::Error)]
enum LostReason {
    #[error(transparent)]
    Engine(#[from] ResumeError),
    #[error("cannot ask the process that shares a directory: {0}")]
    FileShare(FrameError),
}

impl From<JoinError> for SnapshotError {
    fn from(cause: JoinError) -> SnapshotError {
        SnapshotError::Panicked(cause)
    }
}

impl From<LiveDiskError> for SnapshotError {
    fn from(error: LiveDiskError) -> SnapshotError {
        match error {
            LiveDiskError::Refused(_) => SnapshotError::Refused(RefusedError::Disk(error)),
            LiveDiskError::Unknown(_) => SnapshotError::Disk(error),
        }
    }
}

/// What is written beside the memory.
struct Checked {
    surroundings: Surroundings,
    token: ResumeToken,
}

impl Parts<'_> {
    /// Saves the machine, and answers the order. Returns the end of a machine that does not
    /// continue.
    pub(crate) async fn save(
        mut self,
        order: SnapshotOrder,
        origin: Origin<'_>,
        launch: &Launch,
        machine: &MachineState,
    ) -> Result<(), EngineExit> {
        let SnapshotOrder {
            overlay,
            memory,
            mut reply,
        } = order;
        let saved = async {
            let checked = self.check(origin, launch, machine).await?;
            let new = Unpublished::create(&memory).map_err(SnapshotError::Write)?;
            let disk = machine.disk_file();
            tokio::select! {
                prepared = self.agent.prepare_snapshot(checked.token) => {
                    prepared.map_err(RefusedError::Agent)?;
                }
                () = reply.closed() => return Err(SnapshotError::Cancelled),
            }
            self.pause().await?;
            let saved = self.write(&new, overlay, machine, &mut reply).await;
            self.proceed().await.map_err(SnapshotError::Lost)?;
            saved?;
            let launch = Launch {
                disk,
                ..launch.clone()
            };
            let mounts = self.shares.attached();
            let completed = spawn_blocking(move || {
                new.complete(&launch, mounts, &checked.surroundings, checked.token, true)?;
                new.publish()
            });
            completed.await?.map_err(SnapshotError::Write)
        };
        let saved: Result<(), SnapshotError> = saved.await;
        let answer = match &saved {
            Ok(()) => SnapshotReply::Saved,
            Err(error @ SnapshotError::Refused(_)) => SnapshotReply::Refused(error.to_string()),
            Err(error) => SnapshotReply::Failed(error.to_string()),
        };
        // Fails if the client has disconnected.
        let _ = reply.send(answer);
        if let Err(SnapshotError::Lost(reason)) = saved {
            let exit = timeout(ENGINE_TIMEOUT, self.engine.wait()).await;
            self.engine.terminate().await;
            return Err(exit.unwrap_or(EngineExit::Failed(reason.to_string())));
        }
        Ok(())
    }

    async fn check(
        &mut self,
        origin: Origin<'_>,
        launch: &Launch,
        machine: &MachineState,
    ) -> Result<Checked, RefusedError> {
        if launch.virtualization {
            return Err(RefusedError::Virtualization);
        }
        if !machine.is_up() {
            return Err(RefusedError::NotUp);
        }
        if let Some(reason) = machine.report().pause_reason {
            return Err(RefusedError::Paused(reason));
        }
        if !origin.guest_files.iter().all(FileIdentity::is_current) {
            return Err(RefusedError::Updated);
        }
        self.ask_file_share(ShareRequest::Check).await?;
        let random = read_random().map_err(RefusedError::Random)?;
        Ok(Checked {
            surroundings: Surroundings {
                fingerprint: origin.fingerprint.to_owned(),
                guest_files: read_guest_files(&launch.architecture)?,
            },
            token: ResumeToken::new(random),
        })
    }

    /// Pauses what the machine exchanges with the host. After an error it continues.
    async fn pause(&mut self) -> Result<(), RefusedError> {
        let paused = self.link.writing.pause().await;
        paused.map_err(RefusedError::Channel)?;
        let paused = self.ask_file_share(ShareRequest::Pause).await;
        paused.inspect_err(|_| self.link.writing.resume())
    }

    /// Pauses the machine, and writes its memory. Its disk is `overlay` afterwards.
    async fn write(
        &mut self,
        new: &Unpublished,
        overlay: PathBuf,
        machine: &MachineState,
        reply: &mut oneshot::Sender<SnapshotReply>,
    ) -> Result<(), SnapshotError> {
        self.engine.pause().await?;
        let disk = self.engine.disk();
        let disk = disk.ok_or(RefusedError::NotUp)?;
        disk.put_overlay(&overlay).await?;
        machine.set_disk_file(overlay);
        let memory = new.memory();
        tokio::select! {
            saved = self.engine.save(&memory) => Ok(saved?),
            () = reply.closed() => Err(SnapshotError::Cancelled),
        }
    }

    async fn proceed(&mut self) -> Result<(), LostReason> {
        self.engine.resume().await?;
        let continued = self.shares.request(ShareRequest::Continue).await;
        continued.map_err(LostReason::FileShare)?;
        self.link.writing.resume();
        Ok(())
    }

    async fn ask_file_share(&mut self, request: ShareRequest) -> Result<(), RefusedError> {
        let reply = self.shares.request(request).await;
        match reply.map_err(RefusedError::FileShare)? {
            ShareReply::Done { .. } => Ok(()),
            ShareReply::Refused(reason) => Err(RefusedError::InUse(reason)),
        }
    }
}
