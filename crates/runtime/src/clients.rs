//! The programs on the host that reach this machine through its runtime's socket.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use container_network::Network;
use container_protocol::{
    InitProgram, PublishedPort, frame,
    local::{RuntimeReport, RuntimeRequest},
    mux::{Opener, Stream},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncWriteExt, BufReader, copy_buf, split},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

const CHUNK: usize = 64 * 1024;

/// A request to stop the machine. Its connection stays open until the runtime has ended.
#[derive(Debug)]
pub struct StopRequest {
    /// How long init may take, in seconds.
    pub grace_seconds: u32,
    /// Whoever asked waits for this to close; nobody does when it was a signal.
    pub waiting: Option<UnixStream>,
}

/// What clients can see and do.
#[derive(Debug)]
pub struct Clients {
    state: Mutex<State>,
    stops: mpsc::UnboundedSender<StopRequest>,
}

#[derive(Debug)]
struct State {
    report: RuntimeReport,
    opener: Option<Opener>,
    ssh_agent: Option<PathBuf>,
    network: Option<Arc<Network>>,
    /// What was published since the launch, in place of what that says.
    published: Option<Vec<PublishedPort>>,
}

impl Clients {
    /// Clients of a machine that is booting.
    pub fn new(report: RuntimeReport) -> (Arc<Clients>, mpsc::UnboundedReceiver<StopRequest>) {
        let (stops, requests) = mpsc::unbounded_channel();
        let state = State {
            report,
            opener: None,
            ssh_agent: None,
            network: None,
            published: None,
        };
        let clients = Clients {
            state: Mutex::new(state),
            stops,
        };
        (Arc::new(clients), requests)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on streams to the machine are opened with `opener`. It is up if it has an init.
    pub fn machine_is_there(
        &self,
        init: Option<InitProgram>,
        opener: Opener,
        network: Option<Arc<Network>>,
    ) {
        let mut state = self.state();
        state.report.init = init;
        state.opener = Some(opener);
        state.network = network;
    }

    /// What a boot is to publish, if the launch says this.
    pub fn published(&self, launched: &[PublishedPort]) -> Vec<PublishedPort> {
        let state = self.state();
        state.published.as_deref().unwrap_or(launched).to_vec()
    }

    /// From now on it is on its way down.
    pub fn machine_is_stopping(&self) {
        self.state().report.stopping = true;
    }

    /// From now on it is not.
    pub fn machine_is_down(&self) {
        let mut state = self.state();
        state.report.init = None;
        state.opener = None;
        state.network = None;
    }

    /// Asks for a stop, as a client does, and does not wait for it.
    pub fn stop(&self, grace_seconds: u32) {
        let request = StopRequest {
            grace_seconds,
            waiting: None,
        };
        // Without a receiver the machine has ended already.
        let _ = self.stops.send(request);
    }

    /// Joins a guest's stream to the SSH agent of whoever named one last. Without one, or when it
    /// has gone, the stream just ends.
    pub async fn join_ssh_agent(&self, guest: Stream) -> io::Result<()> {
        let socket = self.state().ssh_agent.clone();
        let socket = socket.ok_or(io::ErrorKind::NotConnected)?;
        join(UnixStream::connect(socket).await?, guest).await
    }

    /// Serves all who connect.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let clients = Arc::clone(&self);
                    tokio::spawn(async move {
                        if let Err(error) = clients.serve_one(stream).await {
                            tracing::debug!("a client: {error}");
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others will end first.
                    tracing::warn!("accepting a client: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve_one(&self, mut stream: UnixStream) -> io::Result<()> {
        match frame::read(&mut stream).await.map_err(io::Error::other)? {
            RuntimeRequest::Report => {
                let report = self.state().report.clone();
                frame::write(&mut stream, &report)
                    .await
                    .map_err(io::Error::other)
            }
            RuntimeRequest::Stop { grace_seconds } => {
                let request = StopRequest {
                    grace_seconds,
                    waiting: Some(stream),
                };
                self.stops.send(request).map_err(io::Error::other)
            }
            RuntimeRequest::UseSshAgent { socket } => {
                self.state().ssh_agent = Some(socket);
                Ok(())
            }
            RuntimeRequest::Ports => self.tell_ports(&mut stream).await,
            RuntimeRequest::Publish(ports) => {
                let network = {
                    let mut state = self.state();
                    state.published = Some(ports.clone());
                    state.network.clone()
                };
                if let Some(network) = network {
                    network.set_published(ports).await;
                }
                self.tell_ports(&mut stream).await
            }
            RuntimeRequest::Connect => {
                let opener = self.state().opener.clone();
                let opener = opener.ok_or(io::ErrorKind::NotConnected)?;
                join(stream, opener.open().await?).await
            }
        }
    }
}

impl Clients {
    async fn tell_ports(&self, stream: &mut UnixStream) -> io::Result<()> {
        let ports = self.state().network.as_ref().map(|it| it.ports());
        frame::write(stream, &ports.unwrap_or_default())
            .await
            .map_err(io::Error::other)
    }
}

/// Copies both ways, each to its own end.
///
/// A client that has gone altogether is told from one that has only said all it has to say: the
/// first one's stream must be dropped as it is, which resets it. Closed for writing before that, it
/// would be forgotten without a word to the guest, where a writer without a window would wait for
/// ever.
async fn join(mut client: UnixStream, guest: Stream) -> io::Result<()> {
    let descriptor = client.as_fd().try_clone_to_owned()?;
    let (from_client, mut to_client) = client.split();
    let (from_guest, mut to_guest) = split(guest);
    let inward = async {
        copy_buf(
            &mut BufReader::with_capacity(CHUNK, from_client),
            &mut to_guest,
        )
        .await?;
        if has_gone(&descriptor) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        to_guest.shutdown().await
    };
    let outward = async {
        copy_buf(
            &mut BufReader::with_capacity(CHUNK, from_guest),
            &mut to_client,
        )
        .await?;
        to_client.shutdown().await
    };
    tokio::try_join!(inward, outward)?;
    Ok(())
}

/// Whether the peer has closed both ways of a connection (POLLHUP of unix(7) sockets).
fn has_gone(connection: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(connection, PollFlags::empty())];
    let looked = poll(&mut watched, Some(&Timespec::default()));
    looked.is_ok() && watched[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use container_protocol::mux::{self, Side};
    use tokio::io::AsyncReadExt;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    /// A client's connection, joined to a stream whose other end the guest has.
    async fn joined() -> (UnixStream, Stream) {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (opener, _none, driver) = mux::multiplex(host.compat(), Side::Host);
        tokio::spawn(driver);
        let (_opener, mut incoming, driver) = mux::multiplex(guest.compat(), Side::Guest);
        tokio::spawn(driver);
        let (client, connection) = UnixStream::pair().unwrap();
        let stream = opener.open().await.unwrap();
        tokio::spawn(async move {
            let _opener = opener;
            join(connection, stream).await
        });
        let mut client = client;
        client.write_all(b"x").await.unwrap();
        let mut stream = incoming.recv().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        (client, stream)
    }

    #[tokio::test]
    async fn a_guest_that_writes_learns_that_its_reader_has_gone() {
        let (client, mut guest) = joined().await;
        drop(client);
        let chunk = vec![0; CHUNK];
        let writing = async { while guest.write_all(&chunk).await.is_ok() {} };
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), writing);
        assert!(ended.await.is_ok());
    }

    #[tokio::test]
    async fn a_client_that_has_said_all_still_listens() {
        let (mut client, mut guest) = joined().await;
        client.write_all(b"all").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        guest.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "all");
        guest.write_all(b"answer").await.unwrap();
        guest.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }
}
