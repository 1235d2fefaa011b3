//! Relays messages between the process that serves the shared home and the guest's agent, of which
//! another connects after a suspension that has failed.

use std::{
    io,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use container_protocol::{
    HomeReport, HomeRequest,
    frame::{self, FrameError},
    mux::Stream,
};
use tokio::{
    io::split,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{
        Mutex as AsyncMutex,
        mpsc::{UnboundedSender, unbounded_channel},
    },
};

/// The file share's connection for the agent.
#[derive(Debug)]
pub(crate) struct HomeRelay {
    to_share: AsyncMutex<OwnedWriteHalf>,
    agent: Arc<CurrentAgent>,
}

/// Sender of requests to the agent that has connected last. Without one they are dropped.
type CurrentAgent = Mutex<Option<UnboundedSender<HomeRequest>>>;

impl HomeRelay {
    /// Starts to relay messages of the file share.
    pub(crate) fn start(share: StdUnixStream) -> io::Result<HomeRelay> {
        share.set_nonblocking(true)?;
        let (from_share, to_share) = UnixStream::from_std(share)?.into_split();
        let agent = Arc::default();
        tokio::spawn(pass_requests(from_share, Arc::clone(&agent)));
        Ok(HomeRelay {
            to_share: AsyncMutex::new(to_share),
            agent,
        })
    }

    /// Relays the messages of an agent until it ends.
    pub(crate) async fn serve(&self, agent: Stream) -> Result<(), FrameError> {
        let (requests, mut queue) = unbounded_channel();
        *lock(&self.agent) = Some(requests);
        let (mut from_agent, mut to_agent) = split(agent);
        let reports = async {
            loop {
                // A message is passed on completely or not at all.
                let report: HomeReport = frame::read(&mut from_agent).await?;
                frame::write(&mut *self.to_share.lock().await, &report).await?;
            }
        };
        let requests = async {
            while let Some(request) = queue.recv().await {
                frame::write(&mut to_agent, &request).await?;
            }
            Err(FrameError::Ended)
        };
        tokio::select! {
            ended = reports => ended,
            ended = requests => ended,
        }
    }
}

async fn pass_requests(mut from_share: OwnedReadHalf, agent: Arc<CurrentAgent>) {
    while let Ok(request) = frame::read(&mut from_share).await {
        if let Some(agent) = &*lock(&agent) {
            // Fails if the agent has disconnected.
            let _ = agent.send(request);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
