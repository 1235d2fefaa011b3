//! The runtime process: role, life cycle and signals.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use container_engine::{EngineExit, disk};
use container_machine::{
    BoundedStderr, DirectoriesError, MachineId, ProcessLock, ProcessLockError,
    create_runtime_directory, raise_open_files_limit,
};
use container_network::HeldSockets;
use container_protocol::{BootOccasion, MountReply, local};
use container_systemd::{Scope, ScopeError};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    boot::boot,
    boot_error::BootError,
    clients,
    crash::{self, GUEST_CRASHED},
    free_space,
    held_files::HeldFiles,
    launch::{Launch, LaunchEvent, Purpose},
    mounts,
    resume::{ResumeError, resume},
    stand_in::{self, Waiter},
    state::MachineState,
    supervise::{MachineEnd, supervise},
    suspended::Suspended,
    templates,
};

/// Timeout for the lock. The runtime of the previous boot closes its clients' connections before it
/// releases the lock, so a new one may start while the old one still ends.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval at which the disk is looked at.
const DISK_INTERVAL: Duration = Duration::from_millis(20);

/// Grace period in seconds when this process gets SIGTERM. It is shorter than the 90 s after which
/// systemd kills the processes of a host that shuts down.
const SIGTERM_GRACE: u32 = 60;

/// Time between systemd's SIGTERM and SIGKILL, in which the machine shuts down. It is shorter than
/// the 120 s in which the user's service manager must have ended (user@.service).
const SCOPE_STOP_TIMEOUT: Duration = Duration::from_secs(115);

/// Error that ends the runtime process.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("cannot leave the caller's session: {0}")]
    Session(nix::Error),
    #[error("cannot read the launch from standard input: {0}")]
    ReadLaunch(io::Error),
    #[error("invalid launch on standard input: {0}")]
    InvalidLaunch(serde_json::Error),
    #[error(transparent)]
    Directory(#[from] DirectoriesError),
    #[error("{0}")]
    Lock(ProcessLockError),
    #[error("the machine is already running, in another runtime process")]
    AlreadyRunning,
    #[error("cannot {action}: {cause}")]
    Io { action: String, cause: io::Error },
    #[error("{0}")]
    Boot(BootError),
    #[error(transparent)]
    Resume(#[from] ResumeError),
    #[error("the machine is suspended")]
    Suspended,
    #[error(
        "the saved memory of machine {0:?} has a shared home, and the machine is isolated now (give \
         the memory up with: container machine stop --force {0}, or end the isolation with: \
         container machine set -n {0} isolated=false)"
    )]
    HasHome(MachineId),
    #[error("{0}")]
    Engine(String),
    #[error("the machine crashed: {GUEST_CRASHED}")]
    GuestCrashed,
}

/// Runs the role [`RUNTIME_ROLE`](crate::RUNTIME_ROLE): runs the machine that standard input
/// describes until it ends. Reports on standard output whether it booted.
pub fn runtime_main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(|| BoundedStderr)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            report(&LaunchEvent::Failed(error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), RunError> {
    // The machine outlives the caller's terminal.
    nix::unistd::setsid().map_err(RunError::Session)?;
    if let Err(error) = raise_open_files_limit() {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    let launch = read_launch()?;
    let lock = ProcessLock::acquire(&launch.lock, LOCK_TIMEOUT).map_err(RunError::Lock)?;
    let lock = lock.ok_or(RunError::AlreadyRunning)?;
    tracing::info!("runtime started");
    join_scope(&launch)?;
    await_disk(&launch.disk);
    create_runtime_directory(&launch.runtime_directory)?;
    // One thread: the engine and the file share are killed when the thread that started them ends.
    let events = event_loop()?;
    let outcome = events.block_on(run_machine(&launch));
    // Files that stay behind do no harm: the next boot replaces them.
    let _ = fs::remove_file(launch.socket());
    let _ = fs::remove_file(launch.initramfs());
    let Some(held) = outcome? else {
        return Ok(());
    };
    // It listens before the lock is released, so that the next runtime finds it.
    let standing_in = event_loop()?;
    let waiter = standing_in.block_on(async {
        let terminate = signal(SignalKind::terminate())?;
        Ok((Waiter::new(&launch, held)?, terminate))
    });
    let (waiter, terminate) = waiter.map_err(failed_to("hold the machine's ports"))?;
    // Closes the connections of the clients that wait for the end of the machine.
    drop(events);
    drop(lock);
    standing_in.block_on(waiter.run(terminate));
    Ok(())
}

fn event_loop() -> Result<runtime::Runtime, RunError> {
    let events = runtime::Builder::new_current_thread().enable_all().build();
    events.map_err(failed_to("start the event loop"))
}

/// Leaves the cgroup of the caller, with which the machine would end. Called before there are other
/// processes of the machine, which inherit the cgroup.
fn join_scope(launch: &Launch) -> Result<(), RunError> {
    let scope = Scope {
        name: format!("container-machine-{}.scope", launch.container_id),
        description: format!("Machine {} of container", launch.id),
        stop_timeout: SCOPE_STOP_TIMEOUT,
    };
    match event_loop()?.block_on(scope.join()) {
        Ok(()) => {}
        Err(ScopeError::NoManager(reason)) => {
            tracing::info!("the machine stays in the cgroup of its caller: {reason}");
        }
        Err(error) => tracing::warn!("the machine stays in the cgroup of its caller: {error}"),
    }
    Ok(())
}

/// Waits until the engine of a runtime that was killed has ended. If it does not, or the disk
/// cannot be read, the new engine says so.
fn await_disk(disk: &Path) {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    while disk::is_in_use(disk).unwrap_or(false) && Instant::now() < deadline {
        thread::sleep(DISK_INTERVAL);
    }
}

fn failed_to(action: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
    let action = action.into();
    |cause| RunError::Io { action, cause }
}

fn read_launch() -> Result<Launch, RunError> {
    let mut json = String::new();
    io::stdin()
        .read_to_string(&mut json)
        .map_err(RunError::ReadLaunch)?;
    serde_json::from_str(&json).map_err(RunError::InvalidLaunch)
}

/// Boots the machine, and serves it and its clients until it ends. A machine that its guest reboots
/// is booted again. Returns the ports of a machine that was suspended because it was idle.
async fn run_machine(launch: &Launch) -> Result<Option<HeldSockets>, RunError> {
    let socket = launch.socket();
    let listener =
        local::listen(&socket).map_err(failed_to(format!("listen on {}", socket.display())))?;
    let terminate = signal(SignalKind::terminate()).map_err(failed_to("handle SIGTERM"))?;
    let machine = MachineState::new(launch);
    tokio::spawn(clients::serve(Arc::clone(&machine), socket, listener));
    tokio::spawn(stop_on_signal(terminate, Arc::clone(&machine)));
    tokio::spawn(free_space::watch(Arc::clone(&machine), launch.clone()));
    let mut launch = launch.clone();
    let mut occasion = launch.occasion();
    let mut is_reboot = false;
    let mut files = HeldFiles::open(&launch.architecture).map_err(RunError::Boot)?;
    if let Some(suspended) = find_suspended(&launch)? {
        let resumed = suspended.launch(&launch);
        let held = stand_in::take(&launch.last_runtime_directory).await;
        let mut booted = resume(&resumed, &suspended, held, &machine).await?;
        // They may have been changed while the machine was suspended.
        let parts = mounts::Parts {
            engine: booted.engine.as_mut(),
            shares: &mut booted.shares,
            opener: &booted.link.opener,
            launch: &resumed,
            machine: &machine,
        };
        if let MountReply::InUse(problem) = parts.replace(machine.wanted_mounts()).await {
            machine.add_note(format!("Cannot remove the mount at {problem}"));
        }
        report(&LaunchEvent::Up);
        if let End::Ends(held) = end_of(
            supervise(booted, &resumed, &machine).await,
            &launch,
            &machine,
        )? {
            return Ok(held);
        }
        // The next boot is one with the current settings.
        occasion = BootOccasion::Later;
        is_reboot = true;
    }
    loop {
        // A snapshot may have made a layer of the file that it was.
        launch.disk = machine.disk_file();
        create_runtime_directory(&launch.runtime_directory)?;
        let booted = match boot(&launch, occasion, &mut files, &machine).await {
            Ok(booted) => booted,
            // The machine had booted before, so this is a clean shutdown.
            Err(BootError::Stopped) if is_reboot => return Ok(None),
            Err(error) => return Err(RunError::Boot(error)),
        };
        if let Some(note) = crash::take_note(&launch) {
            machine.add_note(note);
        }
        report(&LaunchEvent::Up);
        if booted.make_template
            && let Err(error) = templates::order(&launch).await
        {
            tracing::warn!("cannot start to make a template: {error}");
        }
        if let End::Ends(held) = end_of(
            supervise(booted, &launch, &machine).await,
            &launch,
            &machine,
        )? {
            return Ok(held);
        }
        // A repaired machine boots as usual, and may never have done so before.
        if !launch.end_rescue() {
            occasion = BootOccasion::Later;
        }
        is_reboot = true;
    }
}

/// Returns the machine's saved memory if it is suspended.
fn find_suspended(launch: &Launch) -> Result<Option<Suspended>, RunError> {
    let found = Suspended::find(&launch.suspended);
    let found = found.map_err(|error| ResumeError::unfit(launch.id.clone(), error))?;
    match &launch.purpose {
        Purpose::Run(settings)
            if settings.isolated && found.as_ref().is_some_and(Suspended::has_home) =>
        {
            Err(RunError::HasHome(launch.id.clone()))
        }
        Purpose::Run(settings) if !settings.rescue => Ok(found),
        _ if found.is_some() => Err(RunError::Suspended),
        Purpose::Run(_) | Purpose::ReadDisk | Purpose::CheckDisk => Ok(None),
    }
}

/// What follows the end of a machine.
enum End {
    /// The machine boots again.
    Reboots,
    /// The runtime ends too, and may leave ports that are held.
    Ends(Option<HeldSockets>),
}

fn end_of(end: MachineEnd, launch: &Launch, machine: &MachineState) -> Result<End, RunError> {
    match end {
        MachineEnd::Engine(EngineExit::Orderly) if machine.power_off() => {
            tracing::info!("rebooting");
            Ok(End::Reboots)
        }
        MachineEnd::Engine(EngineExit::Orderly) => Ok(End::Ends(None)),
        MachineEnd::Suspended(held) => Ok(End::Ends(held)),
        MachineEnd::Engine(EngineExit::Failed(message) | EngineExit::Crashed(message)) => {
            // One that hung may have been killed by an order to stop.
            if !machine.is_stopping() {
                crash::record(launch, &message);
            }
            Err(RunError::Engine(message))
        }
        MachineEnd::GuestCrashed => {
            crash::record(launch, GUEST_CRASHED);
            Err(RunError::GuestCrashed)
        }
    }
}

/// Shuts the machine down cleanly at SIGTERM, which a host that shuts down sends to all processes.
async fn stop_on_signal(mut terminate: Signal, machine: Arc<MachineState>) {
    while terminate.recv().await.is_some() {
        machine.stop(SIGTERM_GRACE);
    }
}

/// Reports to the process that launched this one. It reads until the machine has booted, so that
/// later reports fail.
fn report(event: &LaunchEvent) {
    if let Ok(line) = serde_json::to_string(event) {
        let _ = writeln!(io::stdout(), "{line}");
    }
}
