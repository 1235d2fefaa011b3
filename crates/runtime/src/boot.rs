//! One boot: from a [`Launch`] to a machine that serves commands.
//!
//! The virtual machine is restored from a [template](crate::templates) if one fits. Whatever goes
//! wrong then, the kernel is booted instead.

use std::{
    cell::Cell,
    fs,
    future::pending,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use container_engine::{EngineError, EngineExit, Prepared, Running, disk};
use container_machine::{last_lines, previous_log};
use container_network::Network;
use container_protocol::{
    BootOccasion, ChannelRequest, ControlEvent, ControlRequest, GuestShare, InitProgram,
    MountProblem, Port,
    frame::{self, FrameError},
    mux::{Opener, Stream},
};
use tokio::{
    net::unix::pipe,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    assemble::{HostEnds, assemble},
    boot_error::BootError,
    clock,
    console::{await_silence, drain},
    entropy::read_entropy,
    file_identity::FileIdentity,
    guest_link::GuestLink,
    guest_streams::Targets,
    held_files::HeldFiles,
    launch::{Launch, Purpose},
    log::Log,
    mounts,
    phase::Guest,
    refusals, resolver,
    setup::machine_setup,
    shares::{AttachedMount, Shares},
    socket_forwarding,
    state::MachineState,
    templates::{Cold, Template, TemplateKey, TemplateUse, Templates},
};

/// Timeout from the engine's start to the machine being up. An emulated processor on a busy host
/// takes more than a minute.
const BOOT_TIMEOUT: Duration = Duration::from_secs(240);

/// Interval over which console output is batched. It arrives byte by byte; handled singly, the
/// bytes took longer than the kernel's own boot.
const CONSOLE_INTERVAL: Duration = Duration::from_millis(10);

/// Timeout for an engine to end after its channel has ended.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(2);

/// Timeout from a template's restoration to the agent's first answer. A kernel that was saved at a
/// bad moment never answers.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(20);

/// Number of attempts on a processor that may be at fault.
const ATTEMPTS: u32 = 3;

/// Lines of the console that an error quotes.
const QUOTED_LINES: usize = 12;

/// A machine that has booted.
pub(crate) struct Booted {
    /// The engine, running. Dropping it ends the engine's process.
    pub engine: Box<dyn Running>,
    /// Serve the shared directories.
    pub shares: Shares,
    /// The machine's network; absent if only its disk is read.
    pub network: Option<Arc<Network>>,
    /// The channel to the agent.
    pub link: GuestLink,
    /// [`Prepared::fingerprint`].
    pub fingerprint: String,
    /// The archives that the guest has booted with.
    pub guest_files: Vec<FileIdentity>,
    /// The agent's control stream.
    pub control: Stream,
    /// Ends when the console's last output is in the boot log.
    pub console: JoinHandle<()>,
    /// Whether a template for later boots is to be made.
    pub make_template: bool,
}

/// Error of one attempt to boot.
enum AttemptError {
    /// A template could not be restored, or the machine from it did not boot.
    Template(String),
    /// The machine did not boot.
    Boot(BootError),
}

impl<E: Into<BootError>> From<E> for AttemptError {
    fn from(error: E) -> AttemptError {
        AttemptError::Boot(error.into())
    }
}

/// Boots the machine, and notes in `machine` that it has booted. If an emulated processor may have
/// failed, the boot is repeated (docs/troubleshooting.md). If a template fails, it is removed, and
/// the kernel is booted.
pub(crate) async fn boot(
    launch: &Launch,
    occasion: BootOccasion,
    files: &mut HeldFiles,
    machine: &Arc<MachineState>,
) -> Result<Booted, BootError> {
    let mut attempt = 1;
    let mut failed_template = None;
    // A boot that only reads the disk has logs of its own.
    if launch.run_settings().is_some() {
        Log::new(&launch.boot_log).keep_as(&previous_log(&launch.boot_log));
    }
    loop {
        if machine.is_stopping() {
            return Err(BootError::Stopped);
        }
        let failed = failed_template.as_deref();
        match try_to_boot(launch, occasion, failed, files, machine).await {
            Ok(booted) => return Ok(booted),
            Err(AttemptError::Template(reason)) => {
                tracing::warn!("booting the kernel, because a template failed: {reason}");
                failed_template = Some(reason);
            }
            Err(AttemptError::Boot(error)) if error.is_emulation_fault() && attempt < ATTEMPTS => {
                tracing::warn!("boot attempt {attempt} failed: {error}");
                attempt += 1;
            }
            Err(AttemptError::Boot(error)) => return Err(error),
        }
    }
}

/// Boots the machine once: assembles it, starts its engine, and waits for the agent. After a
/// template has failed, no template is used.
async fn try_to_boot(
    launch: &Launch,
    occasion: BootOccasion,
    failed_template: Option<&str>,
    files: &mut HeldFiles,
    machine: &Arc<MachineState>,
) -> Result<Booted, AttemptError> {
    let guest_files = files.guest();
    let (virtual_machine, mut host_ends) = assemble(launch, files, machine)?;
    // The logs belong to one boot.
    Log::new(&launch.boot_log).clear();
    Log::new(&launch.engine_log()).clear();
    // No other process uses the disk now. An interrupted growth is completed by the next boot.
    disk::grow(&launch.disk, launch.disk_capacity)?;
    let prepared = container_engine::engine(&launch.engine).prepare(virtual_machine)?;
    let way = match failed_template {
        Some(reason) => TemplateUse::Cold(Cold::for_now(reason)),
        None => choose_template(launch, prepared.as_ref(), &host_ends),
    };
    if launch.run_settings().is_some() {
        machine.set_boot(way.report());
    }
    let fingerprint = prepared.fingerprint();
    let mut engine = start_engine(prepared, &way, launch).await?;
    let problems = mounts::attach_all(
        machine.wanted_mounts(),
        engine.as_mut(),
        &mut host_ends.shares,
        launch,
        machine,
    )
    .await;
    machine.set_mount_problems(problems);
    if let Err(error) = engine.resume().await {
        return Err(match way {
            TemplateUse::Restore(template) => {
                template.remove();
                AttemptError::Template(error.to_string())
            }
            TemplateUse::Cold(_) => AttemptError::Boot(BootError::Resume(error)),
        });
    }
    let entropy = read_entropy().map_err(BootError::Entropy)?;
    let serve = ChannelRequest::Serve { entropy };
    // The agent reads it when the kernel has booted.
    let served = frame::write(&mut host_ends.channel, &serve).await;
    served.map_err(BootError::Channel)?;
    tracing::info!("engine started");
    let unpacked_kernel = host_ends.unpacked_kernel.clone();
    let starting = Starting::new(engine, host_ends, launch, machine);
    let mut starting = starting.map_err(BootError::CreateChannel)?;
    match starting.await_up(launch, occasion, &way, machine).await {
        Ok(Up {
            control,
            init,
            mount_problems,
            notes,
        }) => {
            machine.add_mount_problems(mount_problems);
            notes.into_iter().for_each(|note| machine.add_note(note));
            // The engine has read it. The runtime directory is in memory, and so is the file.
            if let Some(kernel) = unpacked_kernel
                && let Err(error) = fs::remove_file(&kernel)
            {
                tracing::warn!("cannot remove {}: {error}", kernel.display());
            }
            starting.note_up(init, machine).await;
            Ok(Booted {
                engine: starting.engine,
                shares: starting.shares,
                network: starting.network,
                link: starting.link,
                fingerprint,
                guest_files,
                control,
                console: starting.console,
                make_template: matches!(way, TemplateUse::Cold(Cold { make: true, .. })),
            })
        }
        Err(failure) => {
            let error = starting.explain_failure(failure, launch).await;
            match way {
                TemplateUse::Restore(template) if !matches!(error, BootError::Stopped) => {
                    template.remove();
                    let reason = format!("the machine from the template did not boot: {error}");
                    Err(AttemptError::Template(reason))
                }
                _ => Err(AttemptError::Boot(error)),
            }
        }
    }
}

/// Returns the template to restore, or why the kernel is booted.
fn choose_template(launch: &Launch, prepared: &dyn Prepared, host_ends: &HostEnds) -> TemplateUse {
    let cold = |reason: &str| TemplateUse::Cold(Cold::because(reason));
    let Some(settings) = launch.run_settings() else {
        return cold("only the disk is read");
    };
    let Some(directory) = &launch.templates else {
        return cold("config.toml disables templates");
    };
    if settings.rescue {
        return cold("the machine is started for a rescue");
    }
    if launch.virtualization {
        return cold("a processor with virtualization cannot be saved");
    }
    let Some(sources) = &host_ends.kernel_sources else {
        return cold(
            "the kernel is unpacked for each boot (add it with: system kernel set), or the program \
             was updated while the machine ran",
        );
    };
    match TemplateKey::new(prepared.template_fingerprint(), sources) {
        Ok(key) => Templates::new(directory).choose(&key),
        Err(error) => cold(&format!("cannot read the files of the kernel: {error}")),
    }
}

/// Starts the engine. The log of a restored machine begins with the messages of its template.
async fn start_engine(
    prepared: Box<dyn Prepared>,
    way: &TemplateUse,
    launch: &Launch,
) -> Result<Box<dyn Running>, AttemptError> {
    match way {
        TemplateUse::Cold(cold) => {
            tracing::info!("booting the kernel: {}", cold.reason);
            Ok(prepared.start().await?)
        }
        TemplateUse::Restore(template) => {
            tracing::info!("restoring the template {}", template.memory().display());
            let log = Log::new(&launch.boot_log);
            log.append_line(&format!(
                "{}[container: this machine was started from a template, whose kernel printed the \
                 lines above]",
                template.console()
            ));
            restore(prepared, template).await.map_err(|reason| {
                template.remove();
                // It belongs to another kernel than the next attempt's.
                log.clear();
                AttemptError::Template(reason)
            })
        }
    }
}

/// Restores a template, which is checked meanwhile.
async fn restore(
    prepared: Box<dyn Prepared>,
    template: &Template,
) -> Result<Box<dyn Running>, String> {
    let checked = template.clone();
    let defect = tokio::task::spawn_blocking(move || checked.defect());
    let restored: Result<_, EngineError> = prepared.restore(template.memory(), Vec::new()).await;
    match defect.await {
        Ok(None) => {}
        Ok(Some(defect)) => return Err(defect),
        Err(error) => return Err(format!("cannot check the template: {error}")),
    }
    restored.map_err(|error| error.to_string())
}

/// Signs of life of a machine that boots.
struct Signs {
    /// Time of the last sign of kernel or agent.
    last: Cell<Instant>,
    /// Whether the agent has answered.
    has_answered: Cell<bool>,
}

impl Signs {
    fn new() -> Signs {
        Signs {
            last: Cell::new(Instant::now()),
            has_answered: Cell::new(false),
        }
    }

    fn note_answer(&self) {
        self.last.set(Instant::now());
        self.has_answered.set(true);
    }
}

/// A machine whose engine runs, and whose agent is not up yet.
struct Starting {
    engine: Box<dyn Running>,
    shares: Shares,
    network: Option<Arc<Network>>,
    link: GuestLink,
    console: JoinHandle<()>,
}

/// A machine that is set up.
struct Up {
    control: Stream,
    /// What runs as init; absent if only the disk is read or checked.
    init: Option<InitProgram>,
    mount_problems: Vec<MountProblem>,
    /// Notes for the user.
    notes: Vec<String>,
}

/// Reason why a starting machine did not boot. It becomes a [`BootError`] when the end of the
/// console, which the error quotes, is in the log.
enum Failure {
    Ended(EngineExit),
    Hung,
    TimedOut,
    Other(BootError),
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Failure {
        Failure::Other(BootError::Channel(error))
    }
}

impl Starting {
    /// Starts to serve the guest's console and streams.
    fn new(
        engine: Box<dyn Running>,
        host_ends: HostEnds,
        launch: &Launch,
        machine: &Arc<MachineState>,
    ) -> io::Result<Starting> {
        let console = serve_console(host_ends.console, launch);
        report_refusals(host_ends.network.as_deref(), launch, machine);
        let targets = Targets::new(
            launch.stdio_log.clone(),
            Arc::clone(machine),
            host_ends.network.clone(),
        );
        Ok(Starting {
            engine,
            shares: host_ends.shares,
            network: host_ends.network,
            link: GuestLink::new(host_ends.channel, Arc::new(targets))?,
            console,
        })
    }

    /// Waits until the agent has set the machine up.
    async fn await_up(
        &mut self,
        launch: &Launch,
        occasion: BootOccasion,
        way: &TemplateUse,
        machine: &MachineState,
    ) -> Result<Up, Failure> {
        let signs = Signs::new();
        let mounts = self.shares.attached();
        let mounts = mounts.iter().map(AttachedMount::guest_share).collect();
        tokio::select! {
            exit = self.engine.wait() => Err(Failure::Ended(exit)),
            up = set_up(&self.link.opener, launch, occasion, mounts, &signs) => up,
            _ = machine.stop_order(None) => Err(Failure::Other(BootError::Stopped)),
            () = await_silence(&launch.boot_log, &signs.last) => Err(Failure::Hung),
            () = restored_in_vain(way, &signs) => Err(Failure::Hung),
            () = sleep(BOOT_TIMEOUT) => Err(Failure::TimedOut),
        }
    }

    /// Notes that the machine has booted, or that its disk can be read or checked.
    async fn note_up(&self, init: Option<InitProgram>, machine: &Arc<MachineState>) {
        let opener = self.link.opener.clone();
        match (init, self.network.clone(), self.engine.disk()) {
            (Some(init), Some(network), Some(disk)) => {
                let guest = Guest {
                    init,
                    opener,
                    network,
                    disk,
                };
                note_guest(guest, machine).await;
            }
            _ => machine.set_disk_ready(opener),
        }
    }

    /// Ends the engine, and returns the error with the end of the kernel's console.
    async fn explain_failure(mut self, failure: Failure, launch: &Launch) -> BootError {
        let failure = match failure {
            // The channel ends with the engine, whose exit says more.
            Failure::Other(BootError::Channel(error)) => {
                match timeout(ENGINE_TIMEOUT, self.engine.wait()).await {
                    Ok(exit) => Failure::Ended(exit),
                    Err(_) => Failure::Other(BootError::Channel(error)),
                }
            }
            other => other,
        };
        if !matches!(failure, Failure::Ended(_)) {
            // The disk is free for the next boot when the engine has ended.
            self.engine.terminate().await;
        }
        drain(&mut self.console).await;
        let console = last_lines(&launch.boot_log, QUOTED_LINES);
        match failure {
            Failure::Ended(exit) => BootError::Ended { exit, console },
            Failure::Hung => BootError::Hung { console },
            Failure::TimedOut => BootError::TimedOut {
                timeout_seconds: BOOT_TIMEOUT.as_secs(),
                console,
            },
            Failure::Other(error) => error,
        }
    }
}

/// Writes the console's output to the boot log.
pub(crate) fn serve_console(console: pipe::Receiver, launch: &Launch) -> JoinHandle<()> {
    tokio::spawn(Log::new(&launch.boot_log).write_from(console, CONSOLE_INTERVAL))
}

/// Reports connections that the network refuses.
pub(crate) fn report_refusals(
    network: Option<&Network>,
    launch: &Launch,
    machine: &Arc<MachineState>,
) {
    if let Some(refused) = network.and_then(Network::take_refused) {
        let boot_log = Log::new(&launch.boot_log);
        let id = launch.id.clone();
        tokio::spawn(refusals::report(refused, id, Arc::clone(machine), boot_log));
    }
}

/// Notes that the guest is set up, keeps its resolver equal to the host's, and forwards sockets.
pub(crate) async fn note_guest(guest: Guest, machine: &Arc<MachineState>) {
    resolver::follow_host(guest.opener.clone(), machine);
    machine.set_up(guest);
    socket_forwarding::start(machine).await;
}

/// Waits until the agent of a restored template has not answered for too long.
async fn restored_in_vain(way: &TemplateUse, signs: &Signs) {
    if matches!(way, TemplateUse::Restore(_)) {
        sleep(RESTORE_TIMEOUT).await;
        if !signs.has_answered.get() {
            return;
        }
    }
    pending().await
}

/// Sends the agent its set-up and waits until it is done. Notes each sign of life.
async fn set_up(
    opener: &Opener,
    launch: &Launch,
    occasion: BootOccasion,
    mounts: Vec<GuestShare>,
    signs: &Signs,
) -> Result<Up, Failure> {
    let start = match &launch.purpose {
        Purpose::Run(settings) => {
            let setup = machine_setup(launch, settings, occasion, mounts);
            let setup = setup.map_err(Failure::Other)?;
            ControlRequest::Start(Box::new(setup))
        }
        Purpose::ReadDisk => ControlRequest::ReadDisk,
        Purpose::CheckDisk => ControlRequest::CheckDisk,
    };
    let control = opener.open().await;
    let mut control = control.map_err(|error| Failure::Other(BootError::CreateChannel(error)))?;
    frame::write(&mut control, &Port::Control).await?;
    frame::write(&mut control, &start).await?;
    let mut is_clock_set = false;
    loop {
        match frame::read(&mut control).await? {
            ControlEvent::Starting => {
                signs.note_answer();
                if !is_clock_set {
                    tracing::info!("agent answered");
                    frame::write(&mut control, &ControlRequest::SetClock(clock::now())).await?;
                    is_clock_set = true;
                }
            }
            ControlEvent::Started {
                init,
                mount_problems,
                notes,
            } => {
                tracing::info!("machine booted, init: {init}");
                return Ok(Up {
                    control,
                    init: Some(init),
                    mount_problems,
                    notes,
                });
            }
            ControlEvent::DiskIsReady => {
                return Ok(Up {
                    control,
                    init: None,
                    mount_problems: Vec::new(),
                    notes: Vec::new(),
                });
            }
            ControlEvent::Failed { message } => {
                return Err(Failure::Other(BootError::SetUp(message)));
            }
            // Only of a machine that has booted.
            ControlEvent::ClockRequested
            | ControlEvent::SuspendReady
            | ControlEvent::SuspendFailed { .. }
            | ControlEvent::SnapshotReady
            | ControlEvent::SnapshotFailed { .. } => {}
            ControlEvent::PoweringOff | ControlEvent::Rebooting => {
                return Err(FrameError::Ended.into());
            }
        }
    }
}
