//! Resuming a suspended machine: from its saved memory to a machine that serves commands.

use std::{io, sync::Arc};

use container_engine::{
    AttachedShare, EngineError, Prepared, ResumeError as EngineResumeError, Running,
};
use container_file_share::{ShareReply, ShareRequest};
use container_machine::MachineId;
use container_network::HeldSockets;
use container_protocol::{frame::FrameError, local::BootKind};

use crate::{
    assemble::assemble_resumed,
    boot::{Booted, note_guest, report_refusals, serve_console},
    boot_error::BootError,
    guest_link::{GuestLink, ResumeLinkError},
    guest_streams::Targets,
    launch::Launch,
    log::Log,
    phase::Guest,
    state::MachineState,
    suspended::{Surroundings, Suspended, UnfitError, installed_guest_files, read_guest_files},
};

/// Error of resuming a machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeError {
    /// The saved memory does not fit, and is kept.
    #[error("it cannot be resumed: {reason} {}", hint(.id))]
    Unfit { id: MachineId, reason: UnfitReason },
    /// The machine was ordered to stop before it continued. It is still suspended.
    #[error("the machine was stopped while it was being resumed, and is suspended")]
    Stopped,
    /// A part of the machine could not be started. It is still suspended.
    #[error(transparent)]
    Assemble(#[from] BootError),
    /// The saved memory could not be marked as used. The machine is still suspended.
    #[error("cannot rename the machine's saved memory: {0}")]
    Consume(io::Error),
    /// The machine failed after it had begun to continue.
    #[error("the machine was lost while it was being resumed, and is stopped: {0}")]
    Lost(LostReason),
}

/// Why a saved memory does not fit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnfitReason {
    #[error(transparent)]
    Unfit(#[from] UnfitError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("cannot check its saved memory: {0}")]
    Check(tokio::task::JoinError),
}

/// Why a machine was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LostReason {
    #[error(transparent)]
    Engine(#[from] EngineResumeError),
    #[error(transparent)]
    Link(#[from] ResumeLinkError),
    #[error("cannot continue to share the home directory: {0}")]
    FileShare(FrameError),
}

impl From<FrameError> for LostReason {
    fn from(cause: FrameError) -> LostReason {
        LostReason::FileShare(cause)
    }
}

impl ResumeError {
    /// Returns the error of a saved memory that does not fit.
    pub(crate) fn unfit(id: MachineId, error: UnfitError) -> ResumeError {
        let reason = error.into();
        ResumeError::Unfit { id, reason }
    }
}

fn hint(id: &MachineId) -> String {
    format!(
        "(to give its saved memory up, with everything that its programs have not written to \
         files: container machine stop --force {id})"
    )
}

/// Resumes the machine, and notes in `machine` that it is up. `launch` has the hardware that the
/// machine was suspended with, and `held` its open ports.
///
/// Until the saved memory is marked as used, every failure leaves the machine suspended.
pub(crate) async fn resume(
    launch: &Launch,
    suspended: &Suspended,
    held: HeldSockets,
    machine: &Arc<MachineState>,
) -> Result<Booted, ResumeError> {
    let (virtual_machine, mut host_ends) = assemble_resumed(launch, machine, held)?;
    let mut attached = Vec::new();
    for mount in suspended.mounts() {
        let source = mount.share.source.clone();
        let started = mount.start_resumed(launch, machine);
        let started = started.map_err(|cause| BootError::Home {
            path: source,
            cause,
        })?;
        let (device, served) = started.split();
        attached.push(device);
        served.note(&mut host_ends.shares, machine);
    }
    Log::new(&launch.engine_log()).clear();
    let prepared = container_engine::engine(&launch.engine)
        .prepare(virtual_machine)
        .map_err(BootError::Engine)?;
    let fingerprint = prepared.fingerprint();
    // Those of the machine, which is checked next.
    let guest_files = installed_guest_files(&launch.architecture)?;
    let restored = restore(prepared, suspended, launch, attached).await;
    let mut engine = restored.map_err(|reason| ResumeError::Unfit {
        id: launch.id.clone(),
        reason,
    })?;
    if machine.is_stopping() {
        engine.terminate().await;
        return Err(ResumeError::Stopped);
    }
    suspended.consume().map_err(ResumeError::Consume)?;
    let lost = |reason: LostReason| ResumeError::Lost(reason);
    engine.resume().await.map_err(|error| lost(error.into()))?;
    let used = suspended.clone();
    tokio::task::spawn_blocking(move || used.remove_used());
    let reply = host_ends.shares.request(ShareRequest::Continue).await;
    note_lost_files(&reply.map_err(|error| lost(error.into()))?, machine);
    let console = serve_console(host_ends.console, launch);
    report_refusals(host_ends.network.as_deref(), launch, machine);
    let targets = Targets::new(
        launch.stdio_log.clone(),
        Arc::clone(machine),
        host_ends.network.clone(),
    );
    let token = suspended.manifest.token;
    if suspended.manifest.is_connected {
        let ended = GuestLink::disconnect(&mut host_ends.channel, token).await;
        ended.map_err(|error| lost(error.into()))?;
    }
    let resumed = GuestLink::resume(host_ends.channel, Arc::new(targets), token).await;
    let (link, control, init) = resumed.map_err(|error| lost(error.into()))?;
    tracing::info!("machine resumed, init: {init}");
    machine.set_boot(BootKind::Resumed);
    if let (Some(network), Some(disk)) = (host_ends.network.clone(), engine.disk()) {
        let guest = Guest {
            init,
            opener: link.opener.clone(),
            network,
            disk,
        };
        note_guest(guest, machine).await;
    }
    Ok(Booted {
        engine,
        shares: host_ends.shares,
        network: host_ends.network,
        link,
        fingerprint,
        guest_files,
        control,
        console,
        make_template: false,
    })
}

/// Restores the saved memory, which is checked meanwhile. The machine is paused then.
async fn restore(
    prepared: Box<dyn Prepared>,
    suspended: &Suspended,
    launch: &Launch,
    attached: Vec<AttachedShare>,
) -> Result<Box<dyn Running>, UnfitReason> {
    let surroundings = Surroundings {
        fingerprint: prepared.fingerprint(),
        // Without an agent it is not the right one.
        guest_files: read_guest_files(&launch.architecture).unwrap_or_default(),
    };
    suspended.check(&surroundings, &launch.disk)?;
    let checked = suspended.clone();
    let check = tokio::task::spawn_blocking(move || checked.check_memory());
    let restored = prepared.restore(suspended.memory(), attached).await;
    check.await.map_err(UnfitReason::Check)??;
    Ok(restored?)
}

/// Adds a note for the user about open files that are not there any more.
fn note_lost_files(reply: &ShareReply, machine: &MachineState) {
    let ShareReply::Done { lost } = reply else {
        return;
    };
    if !lost.is_empty() {
        machine.add_note(format!(
            "Files that programs in the machine have open in shared directories were removed or \
             replaced on the host while the machine was suspended, and cannot be accessed by these \
             programs any more: {}",
            lost.join(", ")
        ));
    }
}
