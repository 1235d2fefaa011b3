//! Serves the host's process that serves the shared home.
//!
//! It asks for [signals] of threads that wait, gets a report of what the machine's programs
//! [watch](watches) in the home, and has changes of the host [repeated](replay) so that the
//! watchers see them. What the kernel has cached of them is [expired](expiry).

mod expiry;
mod fdinfo;
mod mark_events;
mod node_handle;
mod replay;
mod signals;
mod watches;

use std::{io, sync::mpsc::Sender};

use container_protocol::{
    GuestShare, HomeReport, HomeRequest, HostPort,
    frame::{self, FrameError},
    mux::{Opener, Stream},
};
use tokio::{
    io::{ReadHalf, WriteHalf, split},
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use crate::kernel_log;
use replay::{Batch, Replayer};

/// Error of serving the file share.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("cannot open a stream: {0}")]
    Open(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Serves the file share of the home or of a mount, which `port` leads to, until the stream ends or
/// this is dropped. A failure is only logged: processes that wait for a lock there cannot be killed
/// then, and watchers do not see changes of the host.
///
/// `alive` is kept until the last change has been repeated, which may be later.
pub(crate) async fn serve_file_share(
    share: GuestShare,
    port: HostPort,
    opener: Opener,
    alive: mpsc::Sender<()>,
) {
    match serve(share, port, opener, alive).await {
        Ok(()) | Err(ServeError::Frame(FrameError::Ended)) => {}
        Err(error) => kernel_log::error(&format!("cannot serve the file share: {error}")),
    }
}

async fn serve(
    share: GuestShare,
    port: HostPort,
    opener: Opener,
    alive: mpsc::Sender<()>,
) -> Result<(), ServeError> {
    let GuestShare { tag, path, .. } = share;
    let mut host = opener.open().await.map_err(ServeError::Open)?;
    frame::write(&mut host, &port).await?;
    let (receiving, sending) = split(host);
    let (reports, queue) = unbounded_channel();
    let replayer = Replayer::start(path.clone(), reports.clone(), alive);
    let replayer = replayer.map_err(ServeError::Thread)?;
    let thread = HomeReport::ReplayingThread {
        id: replayer.thread,
    };
    // The queue exists until this function returns.
    let _ = reports.send(thread);
    tokio::select! {
        received = receive(&tag, receiving, reports.clone(), replayer.batches) => received,
        sent = send(sending, queue) => sent,
        () = watches::report(path, reports) => Ok(()),
    }
    .map_err(ServeError::Frame)
}

async fn receive(
    tag: &str,
    mut host: ReadHalf<Stream>,
    reports: UnboundedSender<HomeReport>,
    to_replay: Sender<Batch>,
) -> Result<(), FrameError> {
    loop {
        match frame::read(&mut host).await? {
            HomeRequest::FindSignalled { mut threads } => {
                threads.retain(|thread| signals::is_signalled(*thread));
                let _ = reports.send(HomeReport::Signalled { threads });
            }
            HomeRequest::Replay { changes, nodes } => {
                // Fails if the thread has panicked.
                let _ = to_replay.send(Batch { changes, nodes });
            }
            // For the runtime.
            HomeRequest::Synced => {}
            HomeRequest::Expire { nodes } => match expiry::expire(tag, &nodes) {
                Ok(()) => {
                    let _ = reports.send(HomeReport::Expired);
                }
                // Without an answer, the file share lets nothing be cached for long.
                Err(error) => {
                    kernel_log::error(&format!("cannot expire cached files of the home: {error}"));
                }
            },
        }
    }
}

async fn send(
    mut host: WriteHalf<Stream>,
    mut queue: UnboundedReceiver<HomeReport>,
) -> Result<(), FrameError> {
    while let Some(report) = queue.recv().await {
        frame::write(&mut host, &report).await?;
    }
    Ok(())
}
