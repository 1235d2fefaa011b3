//! Serves the streams that the guest agent opens: init's output, connections to the SSH agent,
//! reports of listening sockets, and answers to the file share.

use std::{
    io,
    os::unix::net::UnixStream as StdUnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use container_network::Network;
use container_protocol::{
    HostPort, Listener, frame,
    mux::{Incoming, Stream},
};
use tokio::net::UnixStream;

use crate::{log::Log, ports::guest_ports, splice::splice, state::MachineState};

/// Serves the streams of one boot until its channel ends.
pub(crate) async fn serve(
    mut incoming: Incoming,
    stdio_log: PathBuf,
    machine: Arc<MachineState>,
    network: Option<Arc<Network>>,
    home_questions: Option<StdUnixStream>,
) {
    let home_questions = Arc::new(Mutex::new(home_questions));
    while let Some(mut stream) = incoming.recv().await {
        let (log, machine) = (Log::new(&stdio_log), Arc::clone(&machine));
        let network = network.clone();
        let home_questions = Arc::clone(&home_questions);
        tokio::spawn(async move {
            match frame::read::<HostPort>(&mut stream).await {
                Ok(HostPort::StdioLog) => log.write_from(stream, Duration::ZERO).await,
                Ok(HostPort::SshAgent) => {
                    if let Err(error) = join_ssh_agent(&machine, stream).await {
                        tracing::debug!("connection to the SSH agent ended: {error}");
                    }
                }
                Ok(HostPort::Listeners) => {
                    if let Some(network) = network {
                        forward_ports(&network, &mut stream).await;
                    }
                }
                Ok(HostPort::Home) => {
                    // The agent asks once.
                    let questions = lock(&home_questions).take();
                    if let Some(questions) = questions
                        && let Err(error) = join_file_share(questions, stream).await
                    {
                        tracing::warn!("connection of the file share and agent ended: {error}");
                    }
                }
                Err(error) => tracing::warn!("invalid stream from the guest: {error}"),
            }
        });
    }
}

/// Joins a guest's stream to the SSH agent of the last client that named one. Without an agent the
/// stream is closed, as a connection to an agent that has ended would be.
async fn join_ssh_agent(machine: &MachineState, guest: Stream) -> io::Result<()> {
    let socket = machine.ssh_agent().ok_or(io::ErrorKind::NotConnected)?;
    splice(UnixStream::connect(socket).await?, guest).await
}

/// Joins the agent's stream to the process that serves the home.
async fn join_file_share(questions: StdUnixStream, guest: Stream) -> io::Result<()> {
    questions.set_nonblocking(true)?;
    splice(UnixStream::from_std(questions)?, guest).await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the network's forwarded ports equal to the guest's listeners until the stream ends.
async fn forward_ports(network: &Network, stream: &mut Stream) {
    let guest = network.address().guest().into();
    while let Ok(listeners) = frame::read::<Vec<Listener>>(stream).await {
        network.set_ports(guest_ports(listeners, guest));
    }
}
