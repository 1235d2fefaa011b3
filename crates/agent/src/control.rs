//! The conversation with the host on the control stream: role, clock, start, stop.
//!
//! It begins after the host has chosen this virtual machine to serve a machine ([`template`]).
//!
//! | host | agent |
//! |---|---|
//! | `Start`, `ReadDisk` or `CheckDisk`, once | |
//! | | `Starting`, asking for the time |
//! | `SetClock` | |
//! | | `Starting` every second, as a heartbeat |
//! | | `Started`, `DiskIsReady` or `Failed` |
//! | `CompareClock`, any number of times | |
//! | | `ClockRequested` |
//! | `SetClock` | |
//! | `Suspend`, any number of times | |
//! | | `SuspendReady` or `SuspendFailed` ([`container_protocol::ResumeToken`]) |
//! | `PrepareSnapshot`, any number of times | |
//! | | `SnapshotReady` or `SnapshotFailed` |
//! | `Stop`, or end of the stream | |
//! | | `Rebooting`, if the machine asked for it |

use std::{fs::File, io, sync::Arc, time::Duration};

use container_protocol::{
    BootOccasion, ControlEvent, ControlRequest, HostPort, MachineSetup, MountProblem, Port,
    ResumeToken, SSH_AUTH_SOCKET,
    frame::{self, FrameError},
    mux::{Incoming, Opener, Stream},
};
use tokio::{
    io::AsyncReadExt,
    join,
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    changes::Changes,
    channel::Channel,
    clock,
    commands::Commands,
    file_system_check, freeze,
    guest_listener::GuestListener,
    helper_root::HelperRoot,
    home,
    host_mounts::{HostMounts, Serving},
    init::{Ending, Init, InitError, StdioLog},
    kernel_log,
    link::{Host, Link},
    listeners,
    machine::{self, BootReport, GuestRoot, SetUpError, mounts, resolver::Resolver},
    paths::MACHINE,
    relay,
    shutdown::{self, StopMethod},
    sockets::Sockets,
    template::{self, Devices, TemplateError},
};

/// Interval of the heartbeat during a boot.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Timeout for the host to read the last event.
const LAST_EVENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Timeout for changes of the host that are being repeated when the machine is suspended.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(20);

/// Grace period of init in seconds when the host has closed the control stream.
const HOST_GONE_GRACE: u32 = 10;

/// Error of the conversation with the host. The virtual machine powers off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The channel to the host could not be opened.
    #[error("cannot open the channel to the host: {0}")]
    Channel(io::Error),
    /// The virtual machine could not become a template, or a machine.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The host's first requests were not a role and the time.
    #[error("cannot start: the host sent an unexpected request before the machine's set-up")]
    UnexpectedRequest,
    /// A message could not be sent or received.
    #[error("cannot communicate with the host: {0}")]
    Frame(FrameError),
}

impl From<FrameError> for ControlError {
    fn from(error: FrameError) -> Self {
        ControlError::Frame(error)
    }
}

/// Error of starting the machine, which is reported to the host.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    SetUp(#[from] SetUpError),
    #[error("cannot open the machine's stdio log: {0}")]
    StdioLog(io::Error),
    #[error(transparent)]
    Init(#[from] InitError),
}

/// Purpose of this boot.
enum Role {
    /// Run the machine.
    Machine(Box<MachineSetup>),
    /// Only read the disk of a stopped machine, for a commit.
    DiskReader,
    /// Only check the disk of a stopped machine.
    DiskChecker,
}

/// Takes on the role that the host requests and serves it to its end. Unmounts all of the machine's
/// file systems.
pub(crate) async fn serve(
    helper_root: &HelperRoot,
    background: &Handle,
) -> Result<(), ControlError> {
    let mut channel = Channel::open().await.map_err(ControlError::Channel)?;
    let devices = template::await_machine(&mut channel).await?;
    let (link, mut incoming) = Link::new(channel);
    let (mut control, role) = receive_role(&mut incoming).await?;
    receive_clock(&mut control).await?;
    match role {
        Role::Machine(setup) => {
            let threads = Threads {
                helper_root,
                background,
            };
            serve_machine(&setup, devices, link, incoming, control, threads).await
        }
        Role::DiskReader => serve_disk(devices, incoming, control).await,
        Role::DiskChecker => serve_check(devices, incoming, control).await,
    }
}

/// The agent's other threads.
#[derive(Clone, Copy)]
struct Threads<'a> {
    helper_root: &'a HelperRoot,
    background: &'a Handle,
}

async fn serve_machine(
    setup: &MachineSetup,
    devices: Devices,
    link: Link,
    incoming: Incoming,
    mut control: Stream,
    threads: Threads<'_>,
) -> Result<(), ControlError> {
    let (to_host, host) = Host::new(link.opener.clone());
    let starting = start(setup, devices, host.clone(), threads.background);
    let started = with_heartbeat(starting, &mut control).await?;
    let last_event = match started {
        Ok(machine) => {
            threads.helper_root.enter_machine(&setup.id).await;
            let served = Served {
                link,
                incoming,
                control,
                to_host,
            };
            let (ending, last_control) =
                serve_started(setup, machine, host, served, threads.background).await?;
            control = last_control;
            match ending {
                Ending::PowerOff => ControlEvent::PoweringOff,
                Ending::Reboot => ControlEvent::Rebooting,
            }
        }
        Err(error) => {
            let message = error.to_string();
            kernel_log::error(&message);
            ControlEvent::Failed { message }
        }
    };
    threads.helper_root.leave_machine().await;
    mounts::unmount_machine();
    // Fails if the host has gone.
    if frame::write(&mut control, &last_event).await.is_ok() {
        // The host closes the stream after it has read the event. Powering off before could lose
        // the event in the channel.
        let _ = timeout(LAST_EVENT_TIMEOUT, control.read_u8()).await;
    }
    Ok(())
}

/// What a machine is served over. It is replaced when the machine was suspended.
struct Served {
    link: Link,
    incoming: Incoming,
    control: Stream,
    /// Sends the link's opener to what opens streams all the time.
    to_host: watch::Sender<Opener>,
}

/// A machine whose init runs.
struct Machine {
    init: Init,
    /// Absent after a failure: the machine works without it.
    ssh_agent: Option<GuestListener>,
    /// What the host does not know about the boot yet.
    report: BootReport,
}

/// What ends the serving of a machine, or interrupts it.
enum Interruption {
    Ending(Ending),
    /// The host orders a stop, with this grace period in seconds.
    Stop(u32),
    /// The host suspends the machine.
    Suspend(ResumeToken),
    /// The host saves the machine, which continues.
    Snapshot(ResumeToken),
    /// The stream has ended.
    HostGone,
}

/// Serves the machine from the start of its init to the init's end. Also returns the last control
/// stream.
async fn serve_started(
    setup: &MachineSetup,
    machine: Machine,
    host: Host,
    served: Served,
    background: &Handle,
) -> Result<(Ending, Stream), FrameError> {
    let Machine {
        mut init,
        ssh_agent,
        report,
    } = machine;
    let Served {
        mut link,
        incoming,
        mut control,
        to_host,
    } = served;
    let mounted = setup.mounts.iter().filter(|share| {
        let is_problem = |it: &MountProblem| it.path == share.path;
        !report.mount_problems.iter().any(is_problem)
    });
    let mounted = mounted.cloned().collect();
    let process = init.process().clone();
    let sockets = Arc::new(Sockets::new(process.clone(), setup.user.clone(), host));
    let mounts = Arc::new(HostMounts::new(process.clone(), mounted));
    let started = |report: BootReport| ControlEvent::Started {
        init: process.program.clone(),
        mount_problems: report.mount_problems,
        notes: report.notes,
    };
    let stop_method = StopMethod::new(&process.program, setup.stop_signal.as_deref());
    let streams = Streams {
        commands: Some(Commands::new(process.clone(), setup.user.uid)),
        resolver: setup.network.as_ref().map(Resolver::new).map(Arc::new),
        changes: Changes::new(),
        sockets: Some(Arc::clone(&sockets)),
        mounts: Some(Arc::clone(&mounts)),
    };
    let mut tasks = Tasks::start(setup, &mounts, link.opener.clone(), background).await;
    frame::write(&mut control, &started(report)).await?;
    let mut accepting = tokio::spawn(streams.clone().accept(incoming));
    let mut snapshot = None;
    let ending = loop {
        let token = match serve_until_interrupted(&mut control, &mut init).await {
            Interruption::Ending(ending) => break ending,
            Interruption::Suspend(token) => {
                if let Err(message) = prepare_suspension(tasks).await {
                    tasks = Tasks::start(setup, &mounts, link.opener.clone(), background).await;
                    frame::write(&mut control, &ControlEvent::SuspendFailed { message }).await?;
                    continue;
                }
                frame::write(&mut control, &ControlEvent::SuspendReady).await?;
                // The host closes the stream when it has read everything.
                let _ = timeout(LAST_EVENT_TIMEOUT, control.read_u8()).await;
                token
            }
            Interruption::Snapshot(token) => {
                snapshot = Some(token);
                let event = match write_files().await {
                    Ok(()) => ControlEvent::SnapshotReady,
                    Err(message) => ControlEvent::SnapshotFailed { message },
                };
                // The next read notices an error.
                let _ = frame::write(&mut control, &event).await;
                continue;
            }
            Interruption::Stop(grace_seconds) => {
                // The host may be gone. Nothing waits for it any more.
                drop(to_host);
                break shut_down(&streams, &mut init, stop_method, grace_seconds).await;
            }
            Interruption::HostGone => match snapshot {
                // This is a copy of the machine that was saved.
                Some(token) if link.has_ended().await => {
                    tasks.end().await;
                    token
                }
                _ => {
                    drop(to_host);
                    break shut_down(&streams, &mut init, stop_method, HOST_GONE_GRACE).await;
                }
            },
        };
        accepting.abort();
        let (new, mut incoming) = link.renew(token).await;
        link = new;
        control = receive_control(&mut incoming).await?;
        synchronize_clock(&mut control).await?;
        // Fails only without receivers.
        let _ = to_host.send(link.opener.clone());
        tasks = Tasks::start(setup, &mounts, link.opener.clone(), background).await;
        accepting = tokio::spawn(streams.clone().accept(incoming));
        frame::write(&mut control, &started(BootReport::default())).await?;
    };
    // Everything that holds a file of the machine open has to end before it is unmounted.
    streams.changes.cancel().await;
    tasks.end().await;
    init.finish().await;
    end_ssh_agent(ssh_agent).await;
    sockets.finish().await;
    Ok((ending, control))
}

async fn shut_down(
    streams: &Streams,
    init: &mut Init,
    stop_method: StopMethod,
    grace_seconds: u32,
) -> Ending {
    // Reading changes may have paused init, which could then not receive the request.
    streams.changes.cancel().await;
    let grace = Duration::from_secs(grace_seconds.into());
    shutdown::shut_down(init, stop_method, grace).await;
    Ending::PowerOff
}

/// Ends what is used over the channel, and writes all files to the disk. Returns a message if that
/// is not possible.
async fn prepare_suspension(tasks: Tasks) -> Result<(), String> {
    tasks.finish().await?;
    write_files().await
}

/// Writes all files of the machine to its disk. Returns a message if that is not possible.
async fn write_files() -> Result<(), String> {
    let synced = tokio::task::spawn_blocking(|| {
        let disk = File::open(MACHINE)?;
        Ok(rustix::fs::syncfs(&disk)?)
    });
    let synced: io::Result<()> = synced.await.unwrap_or_else(|error| Err(error.into()));
    synced.map_err(|error| format!("cannot write the machine's files to its disk: {error}"))
}

/// Sets the clock to the host's. It did not count while the machine was suspended.
async fn synchronize_clock(control: &mut Stream) -> Result<(), FrameError> {
    let requested = Instant::now();
    frame::write(control, &ControlEvent::ClockRequested).await?;
    if let ControlRequest::SetClock(nanoseconds) = frame::read(control).await? {
        clock::follow(nanoseconds, requested.elapsed());
    }
    Ok(())
}

/// Serves a read-only disk until the host orders a stop or closes the stream.
async fn serve_disk(
    devices: Devices,
    incoming: Incoming,
    mut control: Stream,
) -> Result<(), ControlError> {
    let mounted = devices.await_all().map_err(SetUpError::Probe);
    let mounted = mounted.and_then(|()| Ok(mounts::mount_disk_read_only()?));
    if let Err(error) = mounted {
        let message = error.to_string();
        kernel_log::error(&message);
        return Ok(frame::write(&mut control, &ControlEvent::Failed { message }).await?);
    }
    frame::write(&mut control, &ControlEvent::DiskIsReady).await?;
    let changes = Changes::new();
    let streams = Streams {
        commands: None,
        resolver: None,
        changes: Arc::clone(&changes),
        sockets: None,
        mounts: None,
    };
    tokio::spawn(streams.accept(incoming));
    await_stop(&mut control).await;
    changes.cancel().await;
    mounts::unmount_machine();
    Ok(())
}

/// Serves checks of the disk's file system until the host orders a stop or closes the stream.
async fn serve_check(
    devices: Devices,
    mut incoming: Incoming,
    mut control: Stream,
) -> Result<(), ControlError> {
    if let Err(error) = devices.await_all() {
        let message = error.to_string();
        kernel_log::error(&message);
        return Ok(frame::write(&mut control, &ControlEvent::Failed { message }).await?);
    }
    frame::write(&mut control, &ControlEvent::DiskIsReady).await?;
    let serve = async {
        while let Some(mut stream) = incoming.recv().await {
            if let Ok(Port::Check) = frame::read(&mut stream).await {
                file_system_check::serve(stream).await;
            }
        }
    };
    tokio::select! {
        () = serve => {}
        () = await_stop(&mut control) => {}
    }
    Ok(())
}

async fn receive_role(incoming: &mut Incoming) -> Result<(Stream, Role), ControlError> {
    let mut control = receive_control(incoming).await?;
    match frame::read(&mut control).await? {
        ControlRequest::Start(setup) => Ok((control, Role::Machine(setup))),
        ControlRequest::ReadDisk => Ok((control, Role::DiskReader)),
        ControlRequest::CheckDisk => Ok((control, Role::DiskChecker)),
        ControlRequest::SetClock(_)
        | ControlRequest::CompareClock
        | ControlRequest::Suspend { .. }
        | ControlRequest::PrepareSnapshot { .. }
        | ControlRequest::Stop { .. } => Err(ControlError::UnexpectedRequest),
    }
}

/// Receives the control stream, which is the first.
async fn receive_control(incoming: &mut Incoming) -> Result<Stream, FrameError> {
    let mut control = incoming.recv().await.ok_or(FrameError::Ended)?;
    match frame::read(&mut control).await? {
        Port::Control => Ok(control),
        _ => Err(FrameError::Ended),
    }
}

/// Asks the host for the time and sets the clock. The host answers with the time of that moment, so
/// the time that the kernel took to boot does not make the clock slow.
async fn receive_clock(control: &mut Stream) -> Result<(), ControlError> {
    frame::write(control, &ControlEvent::Starting).await?;
    match frame::read(control).await? {
        ControlRequest::SetClock(nanoseconds) => {
            if let Err(error) = clock::set(nanoseconds) {
                kernel_log::error(&format!("cannot set the machine's clock: {error}"));
            }
            Ok(())
        }
        _ => Err(ControlError::UnexpectedRequest),
    }
}

/// Waits for the start of the machine and sends a heartbeat meanwhile.
async fn with_heartbeat(
    starting: impl Future<Output = Result<Machine, StartError>>,
    control: &mut Stream,
) -> Result<Result<Machine, StartError>, FrameError> {
    let mut starting = std::pin::pin!(starting);
    loop {
        tokio::select! {
            started = &mut starting => return Ok(started),
            () = sleep(HEARTBEAT) => frame::write(control, &ControlEvent::Starting).await?,
        }
    }
}

/// Sets the machine up and starts its init.
async fn start(
    setup: &MachineSetup,
    devices: Devices,
    host: Host,
    background: &Handle,
) -> Result<Machine, StartError> {
    let report = if setup.rescue {
        machine::set_up_for_rescue(setup, devices).await?
    } else {
        machine::set_up(setup, devices, background).await?
    };
    let log = StdioLog::open(host.clone()).await;
    let log = log.map_err(StartError::StdioLog)?;
    let (init, ssh_agent) = join!(Init::start(setup, log), serve_ssh_agent(setup, host));
    let init = match init {
        Ok(init) => init,
        Err(error) => {
            end_ssh_agent(ssh_agent).await;
            return Err(error.into());
        }
    };
    if setup.occasion == BootOccasion::First {
        // `container machine create` returns with a machine that is ready. Commands report a boot
        // that does not get that far.
        let _ = init.process().settle().await;
    }
    Ok(Machine {
        init,
        ssh_agent,
        report,
    })
}

/// Answers the file share, reports listeners to the host, and relays connections to the machine's
/// loopback, until this is dropped.
struct Tasks {
    tasks: JoinSet<()>,
    mounts: Serving,
    /// Ends when no change of the host is being repeated any more.
    replaying: mpsc::Receiver<()>,
}

impl Tasks {
    async fn start(
        setup: &MachineSetup,
        mounts: &Arc<HostMounts>,
        opener: Opener,
        background: &Handle,
    ) -> Tasks {
        let mut tasks = JoinSet::new();
        let (alive, replaying) = mpsc::channel(1);
        if let Some(share) = &setup.home_share {
            let (port, opener, alive) = (HostPort::Home, opener.clone(), alive.clone());
            let serving = home::serve_file_share(share.clone(), port, opener, alive);
            tasks.spawn_on(serving, background);
        }
        let mounts = mounts.serve_shares(opener.clone(), alive).await;
        if let Some(network) = &setup.network {
            tasks.spawn_on(listeners::report(opener), background);
            tasks.spawn_on(
                relay::serve_streams(network.address, network.gateway),
                background,
            );
            tasks.spawn_on(
                relay::serve_datagrams(network.address, network.gateway),
                background,
            );
        }
        Tasks {
            tasks,
            mounts,
            replaying,
        }
    }

    /// Ends the tasks, which close their files. Changes of the host may still be repeated.
    async fn end(mut self) {
        self.tasks.shutdown().await;
    }

    /// Ends the tasks, and waits until they have no effect any more. Returns a message after a
    /// timeout.
    async fn finish(mut self) -> Result<(), String> {
        self.tasks.shutdown().await;
        drop(self.mounts);
        let finished = timeout(REPLAY_TIMEOUT, self.replaying.recv()).await;
        finished.map(drop).map_err(|_| {
            "timed out waiting until changes of the shared home are visible in the machine"
                .to_owned()
        })
    }
}

/// Serves the host's SSH agent. A failure is only logged: the machine works without it.
async fn serve_ssh_agent(setup: &MachineSetup, host: Host) -> Option<GuestListener> {
    let started = async {
        let root = GuestRoot::open()?;
        GuestListener::start(
            &root,
            SSH_AUTH_SOCKET,
            &setup.user,
            HostPort::SshAgent,
            host,
        )
        .await
    };
    match started.await {
        Ok(ssh_agent) => Some(ssh_agent),
        Err(error) => {
            kernel_log::error(&format!("cannot create {SSH_AUTH_SOCKET}: {error}"));
            None
        }
    }
}

async fn end_ssh_agent(ssh_agent: Option<GuestListener>) {
    if let Some(ssh_agent) = ssh_agent {
        ssh_agent.finish().await;
    }
}

async fn serve_until_interrupted(control: &mut Stream, init: &mut Init) -> Interruption {
    tokio::select! {
        ending = init.wait() => Interruption::Ending(ending),
        interruption = await_interruption(control) => interruption,
    }
}

/// Serves the host's requests until it orders a stop or closes the stream.
async fn await_stop(control: &mut Stream) {
    while !matches!(
        await_interruption(control).await,
        Interruption::Stop(_) | Interruption::HostGone
    ) {}
}

/// Serves the host's requests until it interrupts the machine, or closes the stream. A request that
/// does not fit is ignored: the machine is worth more.
async fn await_interruption(control: &mut Stream) -> Interruption {
    let mut requested = Instant::now();
    loop {
        match frame::read(control).await {
            Ok(ControlRequest::Stop { grace_seconds }) => {
                return Interruption::Stop(grace_seconds);
            }
            Ok(ControlRequest::Suspend { token }) => return Interruption::Suspend(token),
            Ok(ControlRequest::PrepareSnapshot { token }) => return Interruption::Snapshot(token),
            Ok(ControlRequest::CompareClock) => {
                requested = Instant::now();
                let request = frame::write(control, &ControlEvent::ClockRequested).await;
                if request.is_err() {
                    return Interruption::HostGone;
                }
            }
            Ok(ControlRequest::SetClock(nanoseconds)) => {
                clock::follow(nanoseconds, requested.elapsed());
            }
            Ok(ControlRequest::Start(_) | ControlRequest::ReadDisk | ControlRequest::CheckDisk)
            | Err(FrameError::Malformed(_)) => {
                kernel_log::error("an unexpected request of the host is ignored");
            }
            Err(_) => return Interruption::HostGone,
        }
    }
}

/// What streams that the host opens are about.
#[derive(Clone)]
struct Streams {
    /// Absent if only changes are served.
    commands: Option<Arc<Commands>>,
    resolver: Option<Arc<Resolver>>,
    changes: Arc<Changes>,
    /// Absent if only changes are served.
    sockets: Option<Arc<Sockets>>,
    /// Absent if only changes are served.
    mounts: Option<Arc<HostMounts>>,
}

impl Streams {
    /// Serves the streams that the host opens.
    async fn accept(self, mut incoming: Incoming) {
        while let Some(mut stream) = incoming.recv().await {
            let streams = self.clone();
            tokio::spawn(async move {
                // A stream with an unknown port is dropped, which the host sees as a reset.
                match (frame::read::<Port>(&mut stream).await, streams.commands) {
                    (Ok(Port::Changes), _) => streams.changes.serve(stream).await,
                    (Ok(Port::Freeze), Some(_)) => freeze::serve(stream).await,
                    (Ok(Port::Resolver), _) => {
                        if let Some(resolver) = streams.resolver {
                            resolver.serve(stream).await;
                        }
                    }
                    (Ok(Port::Socket), _) => {
                        if let Some(sockets) = streams.sockets {
                            sockets.serve_connection(stream).await;
                        }
                    }
                    (Ok(Port::Mounts), _) => {
                        if let Some(mounts) = streams.mounts {
                            mounts.serve(stream).await;
                        }
                    }
                    (Ok(Port::HostSockets), _) => {
                        if let Some(sockets) = streams.sockets {
                            sockets.serve_list(stream).await;
                        }
                    }
                    (Ok(port), Some(commands)) => commands.serve(port, stream).await,
                    (Ok(_), None) | (Err(_), _) => {}
                }
            });
        }
    }
}
