//! The stand-in: what remains of a runtime whose machine was suspended because it was idle.
//!
//! It holds the machine's ports and name, but not the lock in the bundle: the machine is suspended.
//! When one of them is used, it starts the machine as a user would, with this program's own command
//! line, and the new runtime takes the ports over with the connections that wait there. It listens
//! on a socket in the machine's runtime directory. It ends when a runtime has taken the ports, when
//! the service ends it, or when the machine is not suspended any more. If it is killed, the ports
//! are closed, and the machine is one that was suspended by a user.

use std::{
    env,
    future::pending,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use container_machine::MachineId;
use container_network::{HeldSockets, StandIn};
use container_protocol::{Egress, frame, local};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, UnixStream, unix::SocketAddr},
    process::Command,
    signal::unix::Signal,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{assemble::network_settings, launch::Launch};

/// Name of the socket in the runtime directory.
const SOCKET: &str = "stand-in.sock";

/// Interval at which the socket and the saved memory are looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Timeout for the request of a connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Delay after the machine could not be resumed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What the other end of a connection wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Request {
    /// The machine's sockets: see [`HeldSockets::receive`].
    Take,
    /// The stand-in's end, with which it closes the connection.
    End,
}

/// A stand-in for a machine that is suspended.
pub(crate) struct Waiter {
    id: MachineId,
    /// This program.
    program: PathBuf,
    stand_in: StandIn,
    socket: PathBuf,
    listener: UnixListener,
    /// Directory that exists while the machine is suspended.
    suspended: PathBuf,
}

impl Waiter {
    /// Starts to wait, in the place of the machine's runtime.
    pub(crate) fn new(launch: &Launch, held: HeldSockets) -> io::Result<Waiter> {
        let run = launch.run_settings().ok_or(io::ErrorKind::InvalidInput)?;
        // It passes nothing on, so it needs neither rules nor ports.
        let settings = network_settings(launch, &run.network, Egress::default(), Vec::new());
        let socket = launch.runtime_directory.join(SOCKET);
        Ok(Waiter {
            id: launch.id.clone(),
            program: program()?,
            stand_in: StandIn::new(held, &settings)?,
            listener: local::listen(&socket)?,
            socket,
            suspended: launch.suspended.clone(),
        })
    }

    /// Waits until the machine is used, and resumes it.
    pub(crate) async fn run(mut self, mut terminate: Signal) {
        let mut resuming: Option<JoinHandle<io::Result<()>>> = None;
        loop {
            let is_resuming = resuming.is_some();
            tokio::select! {
                accepted = self.listener.accept() => match read_request(accepted).await {
                    Ok((Request::Take, client)) => return self.hand_over(client),
                    Ok((Request::End, client)) => {
                        // The client waits for the end of the connection.
                        drop(self);
                        return drop(client);
                    }
                    Err(error) => {
                        tracing::warn!("cannot serve a connection: {error}");
                        sleep(RETRY_DELAY).await;
                    }
                },
                used = self.stand_in.used(), if !is_resuming => {
                    tracing::info!("the machine is used, so it is resumed");
                    resuming = Some(tokio::spawn(used_and_resumed(used, self.start_command())));
                }
                resumed = ended(&mut resuming) => {
                    if let Err(error) = resumed {
                        tracing::warn!("cannot resume the machine: {error}");
                        self.stand_in.refuse_waiting();
                        sleep(RETRY_DELAY).await;
                    }
                    resuming = None;
                }
                () = sleep(CHECK_INTERVAL) => self.listen_again(),
                _ = terminate.recv() => return,
            }
            if !self.suspended.exists() && resuming.is_none() {
                return;
            }
        }
    }

    /// Returns the command that resumes the machine.
    fn start_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["machine", "start", "--if-suspended", self.id.as_str()])
            .stdin(Stdio::null());
        command
    }

    /// Creates the socket again if it was removed, for example with the directory of a session, and
    /// the machine's name.
    fn listen_again(&mut self) {
        if let Err(error) = self.stand_in.keep_name() {
            tracing::debug!("cannot join the other machines again: {error}");
        }
        if self.socket.exists() {
            return;
        }
        match local::listen(&self.socket) {
            Ok(listener) => self.listener = listener,
            Err(error) => {
                let socket = self.socket.display();
                tracing::warn!("cannot listen on {socket} again: {error}");
            }
        }
    }

    fn hand_over(self, client: UnixStream) {
        let client = client.into_std();
        if let Err(error) = client.and_then(|client| self.stand_in.hand_over(&client)) {
            tracing::warn!("cannot hand the machine's ports over: {error}");
        }
    }
}

async fn read_request(
    accepted: io::Result<(UnixStream, SocketAddr)>,
) -> io::Result<(Request, UnixStream)> {
    let (mut client, _) = accepted?;
    let read = timeout(REQUEST_TIMEOUT, frame::read(&mut client)).await?;
    Ok((read.map_err(io::Error::other)?, client))
}

/// Runs the command that resumes the machine. When it has succeeded, the machine's runtime has
/// taken the sockets.
async fn used_and_resumed(used: io::Result<()>, mut command: Command) -> io::Result<()> {
    used?;
    let resumed = command.output().await?;
    if resumed.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&resumed.stderr);
    Err(io::Error::other(message.trim().to_owned()))
}

async fn ended(resuming: &mut Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    match resuming {
        Some(resuming) => resuming.await.unwrap_or_else(|error| Err(error.into())),
        None => pending().await,
    }
}

/// Returns the path of this program, also if an update has replaced it.
fn program() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    let replaced = program
        .to_str()
        .and_then(|it| it.strip_suffix(" (deleted)"));
    let replaced = replaced.map(PathBuf::from).filter(|it| it.exists());
    Ok(replaced.unwrap_or(program))
}

/// Takes the sockets over from the stand-in with this runtime directory. Without a stand-in, the
/// result is empty.
pub(crate) async fn take(runtime_directory: &Path) -> HeldSockets {
    let Ok(mut stream) = local::connect(&runtime_directory.join(SOCKET)).await else {
        return HeldSockets::default();
    };
    let taken = async {
        let asked = frame::write(&mut stream, &Request::Take).await;
        asked.map_err(io::Error::other)?;
        let stream = stream.into_std()?;
        let received = tokio::task::spawn_blocking(move || HeldSockets::receive(&stream));
        received.await?
    };
    taken.await.unwrap_or_else(|error| {
        tracing::warn!("cannot take the machine's ports over from its stand-in: {error}");
        HeldSockets::default()
    })
}

/// Ends the stand-in of a machine that is not suspended any more, and closes its ports.
pub async fn end_stand_in(runtime_directory: &Path) {
    let Ok(mut stream) = local::connect(&runtime_directory.join(SOCKET)).await else {
        return;
    };
    // An error means that it has just ended.
    if frame::write(&mut stream, &Request::End).await.is_ok() {
        let _ = stream.read_u8().await;
    }
}
