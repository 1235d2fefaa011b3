//! One boot: from what was decided to a machine that serves commands.

use std::{
    cell::Cell,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixStream as StdUnixStream},
    },
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use container_engine::{
    End, EngineError, FileShare as EngineShare, Kernel, NetworkCard, Running, VirtualMachine,
};
use container_kernel::{Needs, PrepareError};
use container_network::{GATEWAY, GATEWAY6, MTU, Network, PREFIX, PREFIX6, Settings};
use container_protocol::{
    ControlEvent, ControlRequest, GuestHome, HomeShare as GuestShare, HostPort, InitProgram,
    Listener, MachineSetup, Network as GuestNetwork, Port,
    frame::{self, FrameError},
    mux::{self, Incoming, Opener, Side, Stream},
};
use tokio::{
    net::{UnixStream, unix::pipe},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::{
    clients::Clients,
    console::{hint, last_lines, last_words, silence},
    file_share::{FileShare, TAG},
    guest_files::{GuestFiles, GuestFilesError},
    launch::{Launch, Purpose},
    log::Log,
    ports,
    process::prepare,
};

/// The guest finds the channel under this name.
const CHANNEL: &str = "container.agent";

/// How long a machine may take from the kernel's start to being up.
const BOOT: Duration = Duration::from_secs(240);

/// For so long the console's single characters are gathered: taken one by one they would cost a boot
/// more than the kernel does.
const GATHER: Duration = Duration::from_millis(10);

/// How long an engine may take to end whose channel has ended.
const ENGINE_END: Duration = Duration::from_secs(2);

/// How often a machine is booted that stands still on its way up.
const TRIES: u32 = 3;

/// Why a machine did not come up.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// What boots is missing.
    #[error(transparent)]
    GuestFiles(#[from] GuestFilesError),
    /// The kernel cannot be used.
    #[error(transparent)]
    Kernel(#[from] PrepareError),
    /// What boots could not be put together.
    #[error("writing the machine's initial RAM file system: {0}")]
    Initramfs(#[source] io::Error),
    /// The script for the first boot cannot be read.
    #[error("reading the machine's set-up script {path}: {source}")]
    SetupScript {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The shared home is not there.
    #[error("the home directory {path} cannot be shared with the machine: {source}")]
    Home {
        /// The directory.
        path: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The machine's network could not be made.
    #[error("making the machine's network: {0}")]
    Network(#[source] io::Error),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The channel to the guest failed.
    #[error("talking to the guest: {0}")]
    Channel(#[from] FrameError),
    /// The channel could not be made.
    #[error("making the channel to the guest: {0}")]
    MakeChannel(#[source] io::Error),
    /// The machine ended while it booted.
    #[error("the machine ended while it booted{}; the last lines of its kernel's console:\n{console}{}", said(.end), hint(.console))]
    Ended {
        /// How.
        end: End,
        /// The end of the boot log.
        console: String,
    },
    /// Somebody wanted it stopped.
    #[error("the machine was stopped while it booted")]
    Stopped,
    /// The guest says why it cannot be this machine.
    #[error("{0}")]
    Refused(String),
    /// It stands still: neither kernel nor agent says anything.
    #[error(
        "the machine stood still while it booted; the last lines of its kernel's console:\n{console}{}", hint(.console)
    )]
    StandsStill {
        /// The end of the boot log.
        console: String,
    },
    /// It goes on, and does not come up.
    #[error("the machine did not come up in {} s; the last lines of its kernel's console:\n{console}", BOOT.as_secs())]
    Late {
        /// The end of the boot log.
        console: String,
    },
}

impl BootError {
    /// Whether the fault is an emulated processor's, so that another try is worth while: the machine
    /// stands still, or has reset itself before its kernel's first word.
    fn is_the_processors(&self) -> bool {
        match self {
            BootError::StandsStill { .. } => true,
            BootError::Ended {
                end: End::Orderly,
                console,
            } => console.is_empty(),
            _ => false,
        }
    }
}

fn said(end: &End) -> String {
    match end {
        End::Orderly => String::new(),
        End::Failed(message) => format!(" ({})", message.trim()),
    }
}

/// A machine that is up.
pub struct Booted {
    /// The virtual machine.
    pub engine: Box<dyn Running>,
    /// Serves the home; none where nothing is shared.
    pub file_share: Option<FileShare>,
    /// The machine's network, for as long as somebody has it.
    pub network: Option<Arc<Network>>,
    /// Opens streams to the agent.
    pub opener: Opener,
    /// The agent's control stream.
    pub control: Stream,
    /// What runs as the machine's init; nothing where only its disk is read.
    pub init: Option<InitProgram>,
    /// Ends when all that the kernel printed is in the boot log.
    pub console: JoinHandle<()>,
}

/// Boots the machine, unless it is told to `stop` before it is up, and once more if an emulated
/// processor has failed it (docs/performance.md, "A lost interrupt").
pub async fn boot(
    launch: &Launch,
    first_boot: bool,
    clients: &Arc<Clients>,
    stop: &Notify,
) -> Result<Booted, BootError> {
    for _ in 1..TRIES {
        match try_to_boot(launch, first_boot, clients, stop).await {
            Err(error) if error.is_the_processors() => tracing::warn!("{error}"),
            other => return other,
        }
    }
    try_to_boot(launch, first_boot, clients, stop).await
}

/// One try: guest files, file share, engine, channel, and the agent's set-up.
async fn try_to_boot(
    launch: &Launch,
    first_boot: bool,
    clients: &Arc<Clients>,
    stop: &Notify,
) -> Result<Booted, BootError> {
    let files = GuestFiles::find(&launch.architecture)?;
    let needs = Needs {
        home: launch.home.is_some(),
        virtualization: launch.virtualization,
    };
    let (image, modules) =
        container_kernel::prepare(&launch.kernel, needs, &launch.runtime_directory)?;
    let initramfs = launch.runtime_directory.join("initramfs");
    files
        .write_initramfs(modules.as_deref(), &initramfs)
        .map_err(BootError::Initramfs)?;
    let unpacked = Some(image.clone()).filter(|it| *it != launch.kernel);
    let kernel = Kernel {
        image,
        initramfs,
        parameters: launch.kernel_args.as_str().to_owned(),
    };
    let (file_share, engine_share) = share_home(launch)?;
    let (network, card) = network(launch, clients)?;
    let (channel, channel_of_engine) = connection().map_err(BootError::MakeChannel)?;
    let (console_of_engine, console) = pipe::pipe().map_err(BootError::MakeChannel)?;
    let console_of_engine = console_of_engine
        .into_blocking_fd()
        .map_err(BootError::MakeChannel)?;

    // The logs are of this boot.
    let (boot_log, engine_log) = (Log::at(&launch.boot_log), Log::at(&launch.engine_log()));
    boot_log.clear();
    engine_log.clear();
    let engine = container_engine::engine(&launch.engine);
    // Here, where no other process uses it: whatever is cut off, the next boot makes it whole.
    engine.grow_disk(&launch.disk, launch.disk_capacity)?;
    let mut engine = engine
        .start(VirtualMachine {
            name: launch.id.to_string(),
            cpus: launch.cpus,
            memory: launch.memory,
            virtualization: launch.virtualization,
            kernel,
            disk: launch.disk.clone(),
            file_shares: engine_share.into_iter().collect(),
            network: card,
            channel: (channel_of_engine, CHANNEL.to_owned()),
            console: console_of_engine,
            engine_log: launch.engine_log(),
        })
        .await?;

    let mut console = tokio::spawn(boot_log.take(console, GATHER));
    let (opener, incoming, driver) = mux::multiplex(channel.compat(), Side::Host);
    tokio::spawn(driver);
    tokio::spawn(serve_guest(
        incoming,
        launch.stdio_log.clone(),
        Arc::clone(clients),
        network.clone(),
    ));
    let heard = Cell::new(Instant::now());
    let up = tokio::select! {
        end = engine.ended() => {
            last_words(&mut console).await;
            return Err(BootError::Ended { end, console: last_lines(&launch.boot_log) });
        }
        up = timeout(BOOT, bring_up(&opener, launch, first_boot, &heard)) => match up {
            Ok(up) => up,
            Err(_) => Err(BootError::Late { console: last_lines(&launch.boot_log) }),
        },
        () = stop.notified() => Err(BootError::Stopped),
        () = silence(&launch.boot_log, &heard) => {
            Err(BootError::StandsStill { console: last_lines(&launch.boot_log) })
        }
    };
    let (control, init) = match up {
        Ok(up) => up,
        Err(error) => {
            let ended = match error {
                // The channel ends with the engine.
                BootError::Channel(_) => timeout(ENGINE_END, engine.ended()).await.ok(),
                _ => None,
            };
            if ended.is_none() {
                // Its disk is free for the next boot once it has ended.
                engine.end().await;
            }
            last_words(&mut console).await;
            return Err(match ended {
                Some(end) => BootError::Ended {
                    end,
                    console: last_lines(&launch.boot_log),
                },
                None => error,
            });
        }
    };
    // The engine has read it, and where it lies it would take memory.
    if let Some(unpacked) = unpacked
        && let Err(error) = fs::remove_file(&unpacked)
    {
        tracing::warn!("removing {}: {error}", unpacked.display());
    }
    Ok(Booted {
        engine,
        file_share,
        network,
        opener,
        control,
        init,
        console,
    })
}

fn share_home(launch: &Launch) -> Result<(Option<FileShare>, Option<EngineShare>), BootError> {
    let Some(home) = &launch.home else {
        return Ok((None, None));
    };
    let failed = |source| BootError::Home {
        path: home.path.display().to_string(),
        source,
    };
    let log = Log::at(&launch.file_share_log());
    log.clear();
    // Asked here, since the server could only end with it.
    fs::read_dir(&home.path).map_err(failed)?;
    let (file_share, connection) =
        FileShare::start(home, log, &launch.runtime_directory).map_err(failed)?;
    let engine_share = EngineShare {
        tag: TAG.to_owned(),
        connection,
    };
    Ok((Some(file_share), Some(engine_share)))
}

/// The machine's network, and its card.
fn network(
    launch: &Launch,
    clients: &Clients,
) -> Result<(Option<Arc<Network>>, Option<NetworkCard>), BootError> {
    let Some(wanted) = &launch.network else {
        return Ok((None, None));
    };
    let settings = Settings {
        id: launch.id.to_string(),
        address: wanted.address,
        policy: wanted.policy,
        published: clients.published(&wanted.published),
        segment: wanted.segment.clone(),
        name_server: wanted.name_server,
    };
    let started = || {
        prepare(&wanted.segment)?;
        let (ours, of_engine) = UnixDatagram::pair()?;
        Ok((Network::start(ours, settings)?, of_engine))
    };
    let (network, of_engine) = started().map_err(BootError::Network)?;
    let card = NetworkCard {
        connection: of_engine.into(),
        address: container_network::card(wanted.address.guest()),
        mtu: MTU,
    };
    Ok((Some(Arc::new(network)), Some(card)))
}

/// Tells the agent who it is and waits until it is that.
async fn bring_up(
    opener: &Opener,
    launch: &Launch,
    first_boot: bool,
    heard: &Cell<Instant>,
) -> Result<(Stream, Option<InitProgram>), BootError> {
    let mut control = opener.open().await.map_err(BootError::MakeChannel)?;
    frame::write(&mut control, &Port::Control).await?;
    let start = match launch.purpose {
        Purpose::Run => ControlRequest::Start(Box::new(setup(launch, first_boot)?)),
        Purpose::ReadDisk => ControlRequest::ReadDisk,
    };
    frame::write(&mut control, &start).await?;
    let mut clock_is_set = false;
    loop {
        match frame::read(&mut control).await? {
            ControlEvent::Starting => {
                heard.set(Instant::now());
                if !clock_is_set {
                    frame::write(&mut control, &ControlRequest::SetClock(now())).await?;
                    clock_is_set = true;
                }
            }
            ControlEvent::Started { init } => {
                tracing::info!("up, with {init} as init");
                return Ok((control, Some(init)));
            }
            ControlEvent::DiskIsReady => return Ok((control, None)),
            ControlEvent::Failed { message } => return Err(BootError::Refused(message)),
            ControlEvent::Rebooting => return Err(FrameError::Ended.into()),
        }
    }
}

/// The host's clock, nanoseconds since 1970 UTC.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn setup(launch: &Launch, first_boot: bool) -> Result<MachineSetup, BootError> {
    let setup_script = match &launch.setup_script {
        Some(path) if first_boot => {
            let script = fs::read(path).map_err(|source| BootError::SetupScript {
                path: path.display().to_string(),
                source,
            })?;
            Some(script)
        }
        _ => None,
    };
    Ok(MachineSetup {
        id: launch.id.to_string(),
        network: launch.network.as_ref().map(|network| GuestNetwork {
            address: network.address.guest(),
            prefix: PREFIX,
            gateway: GATEWAY,
            address6: container_network::v6(network.address.guest()),
            prefix6: PREFIX6,
            gateway6: GATEWAY6,
            dns: GATEWAY,
        }),
        home_share: launch.home.as_ref().map(|home| GuestShare {
            tag: TAG.to_owned(),
            path: home.path.display().to_string(),
            read_only: home.read_only,
        }),
        home: GuestHome {
            username: launch.user.username.clone(),
            uid: launch.user.uid,
            gid: launch.user.gid,
        },
        shell: launch.shell.clone(),
        setup_script,
        first_boot,
        virtualization: launch.virtualization,
        init_environment: launch.init_env.clone(),
        stop_signal: launch.stop_signal.clone(),
    })
}

/// Serves the streams that the guest opens.
async fn serve_guest(
    mut incoming: Incoming,
    stdio_log: PathBuf,
    clients: Arc<Clients>,
    network: Option<Arc<Network>>,
) {
    while let Some(mut stream) = incoming.recv().await {
        let (log, clients) = (Log::at(&stdio_log), Arc::clone(&clients));
        let network = network.clone();
        tokio::spawn(async move {
            match frame::read::<HostPort>(&mut stream).await {
                Ok(HostPort::StdioLog) => log.take(stream, Duration::ZERO).await,
                Ok(HostPort::SshAgent) => {
                    if let Err(error) = clients.join_ssh_agent(stream).await {
                        tracing::debug!("a connection to the SSH agent: {error}");
                    }
                }
                Ok(HostPort::Listeners) => {
                    if let Some(network) = network {
                        listen_for(&network, &mut stream).await;
                    }
                }
                Err(error) => tracing::warn!("a stream from the guest: {error}"),
            }
        });
    }
}

/// Listens on the host for what the guest says that listens there, until it says no more.
async fn listen_for(network: &Network, stream: &mut Stream) {
    let guest = network.address().guest().into();
    while let Ok(listeners) = frame::read::<Vec<Listener>>(stream).await {
        network.set_ports(ports::of_guest(listeners, guest));
    }
}

/// A connection of which the engine gets one end.
fn connection() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, of_engine) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, of_engine.into()))
}
