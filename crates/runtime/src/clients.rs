//! The programs on the host that reach this machine through its runtime's socket.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use container_protocol::{
    frame,
    local::{RuntimeReport, RuntimeRequest},
    mux::Opener,
};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

const CHUNK: usize = 64 * 1024;

/// A request to stop the machine. Its connection stays open until the runtime has ended.
#[derive(Debug)]
pub struct StopRequest {
    /// How long init may take, in seconds.
    pub grace_seconds: u32,
    /// Whoever asked waits for this to close.
    pub waiting: UnixStream,
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
}

impl Clients {
    /// Clients of a machine that is booting.
    pub fn new(report: RuntimeReport) -> (Arc<Clients>, mpsc::UnboundedReceiver<StopRequest>) {
        let (stops, requests) = mpsc::unbounded_channel();
        let state = State {
            report,
            opener: None,
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

    /// From now on the machine is up, and streams to it are opened with `opener`; with none, it
    /// is not.
    pub fn set_opener(&self, opener: Option<Opener>) {
        let mut state = self.state();
        state.report.up = opener.is_some();
        state.opener = opener;
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
                    waiting: stream,
                };
                self.stops.send(request).map_err(io::Error::other)
            }
            RuntimeRequest::Connect => {
                let opener = self.state().opener.clone();
                let opener = opener.ok_or(io::ErrorKind::NotConnected)?;
                let mut guest = opener.open().await?;
                copy_bidirectional_with_sizes(&mut stream, &mut guest, CHUNK, CHUNK).await?;
                Ok(())
            }
        }
    }
}
