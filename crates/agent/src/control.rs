//! What the host asks of the machine: start, commands, stop.

use std::{sync::Arc, time::Duration};

use container_protocol::{
    ControlEvent, ControlRequest, HostPort, MachineSetup, Port, SSH_AUTH_SOCKET,
    frame::{self, FrameError},
    mux::{self, Incoming, Opener, Side, Stream},
};
use tokio::{
    io::AsyncReadExt,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    changes::Changes,
    channel::Channel,
    commands::Commands,
    init::{Ending, Init},
    listeners,
    machine::{self, SetUpError, mounts},
    power, relay,
    ssh_agent::SshAgent,
};

/// How often the host hears of a machine that is on its way up.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long the host may take to read the agent's last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long init may take to end when the host has gone away, in seconds.
const HOST_GONE_GRACE: u32 = 10;

/// Why the agent gave up.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The channel to the host could not be opened.
    #[error("opening the channel to the host: {0}")]
    Channel(#[source] std::io::Error),
    /// The host did not say first what machine this is.
    #[error("waiting to be told what machine this is: the host asked for something else")]
    NotStarted,
    /// The channel failed.
    #[error("talking to the host: {0}")]
    Frame(#[from] FrameError),
}

/// What this is to be.
enum Role {
    Machine(Box<MachineSetup>),
    DiskReader,
}

/// Becomes what the host says, serves it to its end, and leaves all of the machine's file systems
/// unmounted.
pub async fn serve() -> Result<(), ServeError> {
    let channel = Channel::open().await.map_err(ServeError::Channel)?;
    let (opener, mut incoming, driver) = mux::multiplex(channel, Side::Guest);
    tokio::spawn(driver);
    let (mut control, role) = await_role(&mut incoming).await?;
    take_clock(&mut control).await?;
    match role {
        Role::Machine(setup) => serve_machine(&setup, opener, incoming, control).await,
        Role::DiskReader => serve_disk(incoming, control).await,
    }
}

async fn serve_machine(
    setup: &MachineSetup,
    opener: Opener,
    incoming: Incoming,
    mut control: Stream,
) -> Result<(), ServeError> {
    let last_words = match start_audibly(setup, opener.clone(), &mut control).await? {
        Ok(mut init) => {
            let network = serve_network(setup, opener.clone());
            let ssh_agent = serve_ssh_agent(setup, opener);
            let started = ControlEvent::Started {
                init: init.program().clone(),
            };
            frame::write(&mut control, &started).await?;
            let changes = Changes::new();
            let commands = Some(Commands::new(&init));
            tokio::spawn(accept(incoming, commands, Arc::clone(&changes)));
            let ending = serve_until_end(&mut control, &mut init, &changes).await;
            changes.give_up().await;
            drop(network);
            init.finish().await;
            if let Some(ssh_agent) = ssh_agent {
                ssh_agent.finish().await;
            }
            mounts::unmount_machine();
            (ending == Ending::Reboot).then_some(ControlEvent::Rebooting)
        }
        Err(error) => {
            mounts::unmount_machine();
            let message = error.to_string();
            power::say(&message);
            Some(ControlEvent::Failed { message })
        }
    };
    if let Some(words) = last_words {
        frame::write(&mut control, &words).await?;
        // The host closes the stream when it has read them.
        let _ = timeout(LAST_WORDS, control.read_u8()).await;
    }
    Ok(())
}

/// Lets the disk be read until the host has enough.
async fn serve_disk(incoming: Incoming, mut control: Stream) -> Result<(), ServeError> {
    if let Err(error) = mounts::mount_disk_read_only() {
        let message = error.to_string();
        power::say(&message);
        return Ok(frame::write(&mut control, &ControlEvent::Failed { message }).await?);
    }
    frame::write(&mut control, &ControlEvent::DiskIsReady).await?;
    let changes = Changes::new();
    tokio::spawn(accept(incoming, None, Arc::clone(&changes)));
    // Whatever is asked now, or if the host has gone: there is no more to do.
    let _ = frame::read::<ControlRequest>(&mut control).await;
    changes.give_up().await;
    mounts::unmount_machine();
    Ok(())
}

async fn await_role(incoming: &mut Incoming) -> Result<(Stream, Role), ServeError> {
    let mut control = incoming.recv().await.ok_or(FrameError::Ended)?;
    if frame::read::<Port>(&mut control).await? != Port::Control {
        return Err(ServeError::NotStarted);
    }
    match frame::read(&mut control).await? {
        ControlRequest::Start(setup) => Ok((control, Role::Machine(setup))),
        ControlRequest::ReadDisk => Ok((control, Role::DiskReader)),
        ControlRequest::SetClock(_) | ControlRequest::Stop { .. } => Err(ServeError::NotStarted),
    }
}

/// Asks the host what time it is, and sets the clock by that.
async fn take_clock(control: &mut Stream) -> Result<(), ServeError> {
    frame::write(control, &ControlEvent::Starting).await?;
    match frame::read(control).await? {
        ControlRequest::SetClock(nanoseconds) => {
            if let Err(error) = machine::set_clock(nanoseconds) {
                power::say(&error.to_string());
            }
            Ok(())
        }
        _ => Err(ServeError::NotStarted),
    }
}

/// As [`start`], and tells the host every second that it goes on.
async fn start_audibly(
    setup: &MachineSetup,
    opener: Opener,
    control: &mut Stream,
) -> Result<Result<Init, SetUpError>, FrameError> {
    let mut starting = std::pin::pin!(start(setup, opener));
    loop {
        tokio::select! {
            started = &mut starting => return Ok(started),
            () = sleep(HEARTBEAT) => frame::write(control, &ControlEvent::Starting).await?,
        }
    }
}

/// Sets the machine up and starts its init.
async fn start(setup: &MachineSetup, opener: Opener) -> Result<Init, SetUpError> {
    machine::set_up(setup).await?;
    let log = async {
        let mut log = opener.open().await?;
        frame::write(&mut log, &HostPort::StdioLog).await?;
        Ok::<_, FrameError>(log)
    };
    let log = log.await.map_err(SetUpError::StdioLog)?;
    let init = Init::start(setup, log).await?;
    if setup.first_boot {
        // Whoever makes a machine may talk to its init at once.
        crate::init::ready(init.program()).await;
    }
    Ok(init)
}

/// Tells the host what listens in the machine, and passes on what is for its loopback, until the
/// tasks are dropped.
fn serve_network(setup: &MachineSetup, opener: Opener) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(network) = &setup.network {
        tasks.spawn(listeners::tell(opener));
        tasks.spawn(relay::serve_streams(network.address, network.gateway));
        tasks.spawn(relay::serve_datagrams(network.address, network.gateway));
    }
    tasks
}

/// Serves the host's SSH agent, without which the machine is still of use.
fn serve_ssh_agent(setup: &MachineSetup, opener: Opener) -> Option<SshAgent> {
    match SshAgent::serve(&setup.home, opener) {
        Ok(ssh_agent) => Some(ssh_agent),
        Err(error) => {
            power::say(&format!("making {SSH_AUTH_SOCKET}: {error}"));
            None
        }
    }
}

async fn serve_until_end(control: &mut Stream, init: &mut Init, changes: &Changes) -> Ending {
    let request = tokio::select! {
        ending = init.ended() => return ending,
        request = frame::read::<ControlRequest>(control) => request,
    };
    let grace_seconds = match request {
        Ok(ControlRequest::Stop { grace_seconds }) => grace_seconds,
        Ok(_) | Err(_) => HOST_GONE_GRACE,
    };
    // Whoever reads them may have paused init, which then hears nothing.
    changes.give_up().await;
    init.stop(Duration::from_secs(grace_seconds.into())).await;
    Ending::PowerOff
}

async fn accept(mut incoming: Incoming, commands: Option<Arc<Commands>>, changes: Arc<Changes>) {
    while let Some(mut stream) = incoming.recv().await {
        let (commands, changes) = (commands.clone(), Arc::clone(&changes));
        tokio::spawn(async move {
            // A stream whose port is not understood is dropped: the host sees a reset.
            match (frame::read::<Port>(&mut stream).await, commands) {
                (Ok(Port::Changes), _) => changes.serve(stream).await,
                (Ok(port), Some(commands)) => commands.serve(port, stream).await,
                (Ok(_), None) | (Err(_), _) => {}
            }
        });
    }
}
