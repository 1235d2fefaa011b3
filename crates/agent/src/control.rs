//! The conversation with the host on the control stream: role, clock, start, stop.
//!
//! It begins after the host has chosen this virtual machine to serve a machine ([`template`]).
//!
//! | host | agent |
//! |---|---|
//! | `Start` or `ReadDisk`, once | |
//! | | `Starting`, asking for the time |
//! | `SetClock` | |
//! | | `Starting` every second, as a heartbeat |
//! | | `Started`, `DiskIsReady` or `Failed` |
//! | `CompareClock`, any number of times | |
//! | | `ClockRequested` |
//! | `SetClock` | |
//! | `Stop`, or end of the stream | |
//! | | `Rebooting`, if the machine asked for it |

use std::{io, sync::Arc, time::Duration};

use container_protocol::{
    BootOccasion, ControlEvent, ControlRequest, HostPort, MachineSetup, Port, SSH_AUTH_SOCKET,
    frame::{self, FrameError},
    mux::{self, Incoming, Opener, Side, Stream},
};
use tokio::{
    io::AsyncReadExt,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    changes::Changes,
    channel::Channel,
    clock,
    commands::Commands,
    freeze,
    helper_root::HelperRoot,
    home,
    init::{Ending, Init, InitError},
    kernel_log, listeners,
    machine::{self, SetUpError, mounts, resolver::Resolver},
    relay,
    shutdown::{self, StopMethod},
    ssh_agent::SshAgent,
    template::{self, Devices, TemplateError},
};

/// Interval of the heartbeat during a boot.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Timeout for the host to read the last event.
const LAST_EVENT_TIMEOUT: Duration = Duration::from_secs(2);

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
}

/// Takes on the role that the host requests and serves it to its end. Unmounts all of the machine's
/// file systems.
pub(crate) async fn serve(helper_root: &HelperRoot) -> Result<(), ControlError> {
    let mut channel = Channel::open().await.map_err(ControlError::Channel)?;
    let devices = template::await_machine(&mut channel).await?;
    let (opener, mut incoming, driver) = mux::multiplex(channel, Side::Guest);
    tokio::spawn(driver);
    let (mut control, role) = receive_role(&mut incoming).await?;
    receive_clock(&mut control).await?;
    match role {
        Role::Machine(setup) => {
            serve_machine(&setup, devices, opener, incoming, control, helper_root).await
        }
        Role::DiskReader => serve_disk(devices, incoming, control).await,
    }
}

async fn serve_machine(
    setup: &MachineSetup,
    devices: Devices,
    opener: Opener,
    incoming: Incoming,
    mut control: Stream,
    helper_root: &HelperRoot,
) -> Result<(), ControlError> {
    let last_event =
        match start_with_heartbeat(setup, devices, opener.clone(), &mut control).await? {
            Ok(init) => {
                helper_root.enter_machine(&setup.id).await;
                let ending = serve_started(setup, init, opener, incoming, &mut control).await?;
                (ending == Ending::Reboot).then_some(ControlEvent::Rebooting)
            }
            Err(error) => {
                let message = error.to_string();
                kernel_log::error(&message);
                Some(ControlEvent::Failed { message })
            }
        };
    helper_root.leave_machine().await;
    mounts::unmount_machine();
    if let Some(event) = last_event {
        frame::write(&mut control, &event).await?;
        // The host closes the stream after it has read the event. Powering off before could lose
        // the event in the channel.
        let _ = timeout(LAST_EVENT_TIMEOUT, control.read_u8()).await;
    }
    Ok(())
}

/// Serves the machine from the start of its init to the init's end.
async fn serve_started(
    setup: &MachineSetup,
    mut init: Init,
    opener: Opener,
    incoming: Incoming,
    control: &mut Stream,
) -> Result<Ending, FrameError> {
    let tasks = serve_host(setup, opener.clone());
    let ssh_agent = serve_ssh_agent(setup, opener);
    let process = init.process().clone();
    let started = ControlEvent::Started {
        init: process.program.clone(),
    };
    frame::write(control, &started).await?;
    let changes = Changes::new();
    let stop_method = StopMethod::new(&process.program, setup.stop_signal.as_deref());
    let commands = Some(Commands::new(process, setup.user.uid));
    let resolver = setup.network.as_ref().map(Resolver::new).map(Arc::new);
    tokio::spawn(accept(incoming, commands, resolver, Arc::clone(&changes)));
    let ending = serve_until_end(control, &mut init, stop_method, &changes).await;
    // Everything that holds a file of the machine open has to end before it is unmounted.
    changes.cancel().await;
    drop(tasks);
    init.finish().await;
    if let Some(ssh_agent) = ssh_agent {
        ssh_agent.finish().await;
    }
    Ok(ending)
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
    tokio::spawn(accept(incoming, None, None, Arc::clone(&changes)));
    await_stop(&mut control).await;
    changes.cancel().await;
    mounts::unmount_machine();
    Ok(())
}

async fn receive_role(incoming: &mut Incoming) -> Result<(Stream, Role), ControlError> {
    let mut control = incoming.recv().await.ok_or(FrameError::Ended)?;
    if frame::read::<Port>(&mut control).await? != Port::Control {
        return Err(ControlError::UnexpectedRequest);
    }
    match frame::read(&mut control).await? {
        ControlRequest::Start(setup) => Ok((control, Role::Machine(setup))),
        ControlRequest::ReadDisk => Ok((control, Role::DiskReader)),
        ControlRequest::SetClock(_)
        | ControlRequest::CompareClock
        | ControlRequest::Stop { .. } => Err(ControlError::UnexpectedRequest),
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

/// [Starts](start) the machine and sends a heartbeat meanwhile.
async fn start_with_heartbeat(
    setup: &MachineSetup,
    devices: Devices,
    opener: Opener,
    control: &mut Stream,
) -> Result<Result<Init, StartError>, FrameError> {
    let mut starting = std::pin::pin!(start(setup, devices, opener));
    loop {
        tokio::select! {
            started = &mut starting => return Ok(started),
            () = sleep(HEARTBEAT) => frame::write(control, &ControlEvent::Starting).await?,
        }
    }
}

/// Sets the machine up and starts its init.
async fn start(setup: &MachineSetup, devices: Devices, opener: Opener) -> Result<Init, StartError> {
    if setup.rescue {
        machine::set_up_for_rescue(setup, devices).await?;
    } else {
        machine::set_up(setup, devices).await?;
    }
    let log = open_stdio_log(opener).await.map_err(StartError::StdioLog)?;
    let init = Init::start(setup, log).await?;
    if setup.occasion == BootOccasion::First {
        // `container machine create` returns with a machine that is ready. Commands report a boot
        // that does not get that far.
        let _ = init.process().settle().await;
    }
    Ok(init)
}

async fn open_stdio_log(opener: Opener) -> io::Result<Stream> {
    let mut log = opener.open().await?;
    frame::write(&mut log, &HostPort::StdioLog)
        .await
        .map_err(io::Error::other)?;
    Ok(log)
}

/// Answers the file share, reports listeners to the host, and relays connections to the machine's
/// loopback, until the returned tasks are dropped.
fn serve_host(setup: &MachineSetup, opener: Opener) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(share) = &setup.home_share {
        tasks.spawn(home::serve_file_share(share.path.clone(), opener.clone()));
    }
    if let Some(network) = &setup.network {
        tasks.spawn(listeners::report(opener));
        tasks.spawn(relay::serve_streams(network.address, network.gateway));
        tasks.spawn(relay::serve_datagrams(network.address, network.gateway));
    }
    tasks
}

/// Serves the host's SSH agent. A failure is only logged: the machine works without it.
fn serve_ssh_agent(setup: &MachineSetup, opener: Opener) -> Option<SshAgent> {
    match SshAgent::serve(&setup.user, opener) {
        Ok(ssh_agent) => Some(ssh_agent),
        Err(error) => {
            kernel_log::error(&format!("cannot create {SSH_AUTH_SOCKET}: {error}"));
            None
        }
    }
}

async fn serve_until_end(
    control: &mut Stream,
    init: &mut Init,
    stop_method: StopMethod,
    changes: &Changes,
) -> Ending {
    let grace_seconds = tokio::select! {
        ending = init.wait() => return ending,
        grace_seconds = await_stop(control) => grace_seconds,
    };
    // Reading changes may have paused init, which could then not receive the request.
    changes.cancel().await;
    let grace = Duration::from_secs(grace_seconds.into());
    shutdown::shut_down(init, stop_method, grace).await;
    Ending::PowerOff
}

/// Serves the host's requests until it orders a stop or closes the stream. Returns the grace period
/// in seconds. A request that does not fit is ignored: the machine is worth more.
async fn await_stop(control: &mut Stream) -> u32 {
    let mut requested = Instant::now();
    loop {
        match frame::read(control).await {
            Ok(ControlRequest::Stop { grace_seconds }) => return grace_seconds,
            Ok(ControlRequest::CompareClock) => {
                requested = Instant::now();
                let request = frame::write(control, &ControlEvent::ClockRequested).await;
                if request.is_err() {
                    return HOST_GONE_GRACE;
                }
            }
            Ok(ControlRequest::SetClock(nanoseconds)) => {
                clock::follow(nanoseconds, requested.elapsed());
            }
            Ok(ControlRequest::Start(_) | ControlRequest::ReadDisk)
            | Err(FrameError::Malformed(_)) => {
                kernel_log::error("an unexpected request of the host is ignored");
            }
            Err(_) => return HOST_GONE_GRACE,
        }
    }
}

/// Serves the streams that the host opens. Without `commands` only changes are served.
async fn accept(
    mut incoming: Incoming,
    commands: Option<Arc<Commands>>,
    resolver: Option<Arc<Resolver>>,
    changes: Arc<Changes>,
) {
    while let Some(mut stream) = incoming.recv().await {
        let (commands, changes) = (commands.clone(), Arc::clone(&changes));
        let resolver = resolver.clone();
        tokio::spawn(async move {
            // A stream with an unknown port is dropped, which the host sees as a reset.
            match (frame::read::<Port>(&mut stream).await, commands) {
                (Ok(Port::Changes), _) => changes.serve(stream).await,
                (Ok(Port::Freeze), Some(_)) => freeze::serve(stream).await,
                (Ok(Port::Resolver), _) => {
                    if let Some(resolver) = resolver {
                        resolver.serve(stream).await;
                    }
                }
                (Ok(port), Some(commands)) => commands.serve(port, stream).await,
                (Ok(_), None) | (Err(_), _) => {}
            }
        });
    }
}
