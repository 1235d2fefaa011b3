//! The runtime process.

use std::{
    fs::{self, DirBuilder},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use container_engine::End;
use container_protocol::{
    ControlEvent, ControlRequest, frame,
    local::{self, RuntimeReport},
    mux::Stream,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    net::{UnixListener, UnixStream},
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    boot::{Booted, boot},
    clients::{Clients, StopRequest},
    console::last_words,
    handle::SOCKET,
    launch::{Launch, LaunchEvent, Purpose},
    lock,
};

/// How much longer than init's own time the guest may take to unmount and power off.
const POWER_OFF: Duration = Duration::from_secs(30);

/// How long a machine whose home is gone may take to stop: what waits for a file there never ends.
const HOME_GONE_GRACE: u32 = 5;

/// How long init may take to end when this process is told to, in seconds: less than a host waits
/// that shuts down.
const TOLD_GRACE: u32 = 60;

/// How often it is looked whether the socket is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The role [`RUNTIME_ROLE`](crate::RUNTIME_ROLE): runs the machine that standard input
/// describes, to its end. Tells on standard output whether it came up.
pub fn runtime_main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("{message}");
            tell(&LaunchEvent::Failed(message));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    // A session of its own: no terminal's end is the machine's.
    nix::unistd::setsid().map_err(|error| format!("leaving the caller's session: {error}"))?;
    allow_many_connections();
    let mut words = String::new();
    io::stdin()
        .read_to_string(&mut words)
        .map_err(|error| format!("reading what to run: {error}"))?;
    let launch: Launch =
        serde_json::from_str(&words).map_err(|error| format!("reading what to run: {error}"))?;
    let directory = &launch.runtime_directory;
    let _lock = lock::claim(&launch.lock)?;
    prepare(directory).map_err(|error| format!("preparing {}: {error}", directory.display()))?;
    // One thread: engine and file share die with the thread that started them.
    let events = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the event loop: {error}"))?;
    let outcome = events.block_on(run_machine(&launch));
    // Whoever comes next finds nothing, or replaces it.
    let _ = fs::remove_file(directory.join(SOCKET));
    let _ = fs::remove_file(directory.join("initramfs"));
    outcome
}

/// Allows as many open files as the host does: each of the machine's connections has one.
fn allow_many_connections() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!("raising the limit of open files: {error}");
    }
}

/// Makes a directory that is its owner's alone.
pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

/// Serves clients at the socket, which is made anew when somebody has removed it.
async fn serve_clients(clients: Arc<Clients>, socket: PathBuf, mut listener: UnixListener) {
    loop {
        tokio::select! {
            () = Arc::clone(&clients).serve(listener) => return,
            () = removed(&socket) => {}
        }
        listener = loop {
            let directory = socket.parent().unwrap_or(Path::new("/"));
            match prepare(directory).and_then(|()| local::listen(&socket)) {
                Ok(listener) => break listener,
                Err(error) => {
                    tracing::warn!("listening on {} again: {error}", socket.display());
                    sleep(LOOK_AGAIN * 15).await;
                }
            }
        };
    }
}

async fn removed(socket: &Path) {
    while socket.exists() {
        sleep(LOOK_AGAIN).await;
    }
}

/// Stops the machine in order when this process is told to end, as all are when the host shuts down.
async fn stop_when_told(clients: Arc<Clients>) -> io::Result<()> {
    let mut told = signal(SignalKind::terminate())?;
    told.recv().await;
    clients.stop(TOLD_GRACE);
    Ok(())
}

/// Boots the machine, serves its clients to its end, and boots it again when it asked for that.
async fn run_machine(launch: &Launch) -> Result<(), String> {
    let socket = launch.runtime_directory.join(SOCKET);
    let listener = local::listen(&socket)
        .map_err(|error| format!("listening on {}: {error}", socket.display()))?;
    let (clients, mut stops) = Clients::new(RuntimeReport {
        container_id: launch.container_id.clone(),
        started_nanoseconds: i64::try_from(jiff::Timestamp::now().as_nanosecond())
            .unwrap_or_default(),
        ip_address: launch.network.as_ref().map(|it| it.address.host()),
        pid: std::process::id(),
        stopping: false,
        reads_disk: launch.purpose == Purpose::ReadDisk,
        init: None,
    });
    tokio::spawn(serve_clients(Arc::clone(&clients), socket, listener));
    tokio::spawn(stop_when_told(Arc::clone(&clients)));
    let mut first_boot = launch.first_boot;
    // Kept until the end of this process, which is what those who asked wait for.
    let mut waiting = Vec::new();
    loop {
        tell(&LaunchEvent::Progress("booting".to_owned()));
        let stop = Notify::new();
        let mut booting = pin!(boot(launch, first_boot, &clients, &stop));
        let booted = loop {
            tokio::select! {
                booted = &mut booting => break booted.map_err(|error| error.to_string())?,
                Some(request) = stops.recv() => {
                    waiting.extend(request.waiting);
                    stop.notify_one();
                }
            }
        };
        first_boot = false;
        clients.machine_is_there(
            booted.init.clone(),
            booted.opener.clone(),
            booted.network.clone(),
        );
        tell(&LaunchEvent::Up);
        let end = serve(booted, &mut stops, &mut waiting, &clients).await;
        clients.machine_is_down();
        match end {
            MachineEnd::Off => return Ok(()),
            MachineEnd::Reboot => tracing::info!("rebooting"),
            MachineEnd::Failed(message) => return Err(message),
        }
    }
}

enum MachineEnd {
    Off,
    Reboot,
    Failed(String),
}

async fn serve(
    booted: Booted,
    stops: &mut mpsc::UnboundedReceiver<StopRequest>,
    waiting: &mut Vec<UnixStream>,
    clients: &Clients,
) -> MachineEnd {
    let Booted {
        mut engine,
        mut file_share,
        control,
        opener: _opener,
        network: _network,
        init: _,
        mut console,
    } = booted;
    let (mut events, mut requests) = tokio::io::split(control);
    let mut listening = true;
    let mut reboot = false;
    let mut deadline: Option<Instant> = None;
    loop {
        let too_late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let home_gone = async {
            match &mut file_share {
                Some(file_share) => file_share.ended().await,
                None => std::future::pending().await,
            }
        };
        let (grace_seconds, power_off) = tokio::select! {
            end = engine.ended() => {
                last_words(&mut console).await;
                return match end {
                    End::Orderly if reboot => MachineEnd::Reboot,
                    End::Orderly => MachineEnd::Off,
                    End::Failed(message) => MachineEnd::Failed(message),
                };
            }
            event = frame::read::<ControlEvent>(&mut events), if listening => {
                listening = false;
                reboot = matches!(event, Ok(ControlEvent::Rebooting));
                // The agent waits for this before it powers off.
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut requests).await;
                continue;
            }
            Some(stop) = stops.recv() => {
                let grace_seconds = stop.grace_seconds;
                waiting.extend(stop.waiting);
                (grace_seconds, POWER_OFF)
            }
            status = home_gone => {
                tracing::error!("the process that serves the home ended ({status:?}); stopping the machine");
                file_share = None;
                (HOME_GONE_GRACE, Duration::ZERO)
            }
            () = too_late => {
                tracing::error!("the guest did not power off in time");
                engine.end().await;
                deadline = None;
                continue;
            }
        };
        clients.machine_is_stopping();
        ask_to_stop(&mut requests, grace_seconds).await;
        let latest = Instant::now() + Duration::from_secs(grace_seconds.into()) + power_off;
        // A stop asked for while another goes on does not prolong it.
        deadline = Some(deadline.map_or(latest, |earlier| earlier.min(latest)));
    }
}

async fn ask_to_stop(control: &mut tokio::io::WriteHalf<Stream>, grace_seconds: u32) {
    let stop = ControlRequest::Stop { grace_seconds };
    if let Err(error) = frame::write(control, &stop).await {
        tracing::warn!("asking the guest to stop: {error}");
    }
}

/// Tells whoever launched this process; it listens only until the machine is up.
fn tell(event: &LaunchEvent) {
    if let Ok(line) = serde_json::to_string(event) {
        let _ = writeln!(io::stdout(), "{line}");
    }
}
