//! Relays messages between the process that serves the shared home and the guest's agent, of which
//! another connects after a suspension that has failed.

use std::{
    io,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
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
        watch,
    },
    time::timeout,
};

/// Timeout for what the host has changed to be known in the guest.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

/// The file share's connection for the agent.
#[derive(Debug)]
pub(crate) struct HomeRelay {
    to_share: AsyncMutex<ToShare>,
    agent: Arc<CurrentAgent>,
    /// Number of the requests to synchronize that the file share has answered.
    synced: watch::Receiver<u64>,
}

#[derive(Debug)]
struct ToShare {
    connection: OwnedWriteHalf,
    /// Number of the requests to synchronize.
    syncs: u64,
}

/// Sender of requests to the agent that has connected last. Without one they are dropped.
type CurrentAgent = Mutex<Option<UnboundedSender<HomeRequest>>>;

impl HomeRelay {
    /// Starts to relay messages of the file share.
    pub(crate) fn start(share: StdUnixStream) -> io::Result<HomeRelay> {
        share.set_nonblocking(true)?;
        let (from_share, to_share) = UnixStream::from_std(share)?.into_split();
        let agent = Arc::default();
        let (answers, synced) = watch::channel(0);
        tokio::spawn(pass_requests(from_share, Arc::clone(&agent), answers));
        Ok(HomeRelay {
            to_share: AsyncMutex::new(ToShare {
                connection: to_share,
                syncs: 0,
            }),
            agent,
            synced,
        })
    }

    /// Waits until the guest has expired what it has cached of files that the host has changed
    /// before. Gives up after a [timeout](SYNC_TIMEOUT).
    pub(crate) async fn sync(self: &Arc<HomeRelay>) {
        let relay = Arc::clone(self);
        // A message is sent completely or not at all.
        let asked = tokio::spawn(async move {
            let mut to_share = relay.to_share.lock().await;
            frame::write(&mut to_share.connection, &HomeReport::Sync).await?;
            to_share.syncs += 1;
            Ok::<u64, FrameError>(to_share.syncs)
        });
        let synced = async {
            if let Ok(Ok(number)) = asked.await {
                // Fails if the file share has ended.
                let _ = self
                    .synced
                    .clone()
                    .wait_for(|synced| *synced >= number)
                    .await;
            }
        };
        if timeout(SYNC_TIMEOUT, synced).await.is_err() {
            tracing::warn!("the file share did not answer within {SYNC_TIMEOUT:?}");
        }
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
                if report == HomeReport::Sync {
                    // Only the runtime counts the answers.
                    continue;
                }
                let mut to_share = self.to_share.lock().await;
                frame::write(&mut to_share.connection, &report).await?;
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

async fn pass_requests(
    mut from_share: OwnedReadHalf,
    agent: Arc<CurrentAgent>,
    synced: watch::Sender<u64>,
) {
    while let Ok(request) = frame::read(&mut from_share).await {
        if request == HomeRequest::Synced {
            synced.send_modify(|number| *number += 1);
            continue;
        }
        if let Some(agent) = &*lock(&agent) {
            // Fails if the agent has disconnected.
            let _ = agent.send(request);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
