//! Relays messages between the process that serves the shared home and the guest's agent, of which
//! another connects after a suspension that has failed.

use std::{io, os::unix::net::UnixStream as StdUnixStream, sync::Arc, time::Duration};

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
        mpsc::{Sender, channel},
        watch,
    },
    time::timeout,
};

/// Timeout for what the host has changed to be known in the guest.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

/// Number of requests that wait for the agent. The file share sends the next of a kind after the
/// answer, so only an agent that does not read leaves this many. Then the file share's further
/// requests stay in the socket, and the file share collects changes up to its own limit, of whose
/// overflow it reports.
const WAITING_REQUESTS: usize = 16;

/// The file share's connection for the agent.
#[derive(Debug)]
pub(crate) struct HomeRelay {
    to_share: Arc<AsyncMutex<ToShare>>,
    /// Sender of requests to the agent that has connected last. Without one they are dropped.
    agent: watch::Sender<Option<Sender<HomeRequest>>>,
    /// Number of the requests to synchronize that the file share has answered.
    synced: watch::Receiver<u64>,
}

#[derive(Debug)]
struct ToShare {
    connection: OwnedWriteHalf,
    /// Number of the requests to synchronize.
    syncs: u64,
}

impl HomeRelay {
    /// Starts to relay messages of the file share.
    pub(crate) fn start(share: StdUnixStream) -> io::Result<HomeRelay> {
        share.set_nonblocking(true)?;
        let (from_share, to_share) = UnixStream::from_std(share)?.into_split();
        let (agent, current_agent) = watch::channel(None);
        let (answers, synced) = watch::channel(0);
        tokio::spawn(pass_requests(from_share, current_agent, answers));
        Ok(HomeRelay {
            to_share: Arc::new(AsyncMutex::new(ToShare {
                connection: to_share,
                syncs: 0,
            })),
            agent,
            synced,
        })
    }

    /// Waits until the guest has expired what it has cached of files that the host has changed
    /// before. Gives up after a [timeout](SYNC_TIMEOUT).
    pub(crate) async fn sync(&self) {
        let synced = async {
            // While the file share does not read, one task holds the lock; the others give up here.
            let mut to_share = Arc::clone(&self.to_share).lock_owned().await;
            // A message is sent completely or not at all.
            let asked = tokio::spawn(async move {
                frame::write(&mut to_share.connection, &HomeReport::Sync).await?;
                to_share.syncs += 1;
                Ok::<u64, FrameError>(to_share.syncs)
            });
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
        let (requests, mut queue) = channel(WAITING_REQUESTS);
        self.agent.send_replace(Some(requests));
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
    mut agent: watch::Receiver<Option<Sender<HomeRequest>>>,
    synced: watch::Sender<u64>,
) {
    while let Ok(request) = frame::read(&mut from_share).await {
        if request == HomeRequest::Synced {
            synced.send_modify(|number| *number += 1);
            continue;
        }
        let current = agent.borrow_and_update().clone();
        if let Some(current) = current {
            tokio::select! {
                // Fails if the agent has disconnected.
                _ = current.send(request) => {}
                // Another agent has replaced one that does not read.
                _ = agent.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use container_protocol::mux::{Side, multiplex};
    use futures::future::join_all;
    use tokio::runtime::Handle;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn synchronizations_do_not_pile_up_while_the_file_share_hangs() {
        let (ours, _shares) = StdUnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 4096]).is_ok() {}
        let relay = HomeRelay::start(ours).unwrap();
        for _ in 0..3 {
            join_all((0..50).map(|_| relay.sync())).await;
        }
        // One passes requests, and one waits for the file share to read.
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_for_an_agent_that_does_not_read_stay_with_the_file_share() {
        let (ours, shares) = StdUnixStream::pair().unwrap();
        let relay = Arc::new(HomeRelay::start(ours).unwrap());
        let (host, guest) = UnixStream::pair().unwrap();
        let (_host, mut incoming, run_host) = multiplex(host.compat(), Side::Host);
        let (opener, _guest, run_guest) = multiplex(guest.compat(), Side::Guest);
        tokio::spawn(run_host);
        tokio::spawn(run_guest);
        let mut agent = opener.open().await.unwrap();
        frame::write(&mut agent, &HomeReport::Sync).await.unwrap();
        let stream = incoming.recv().await.unwrap();
        tokio::spawn({
            let relay = Arc::clone(&relay);
            async move { relay.serve(stream).await }
        });

        shares.set_nonblocking(true).unwrap();
        let (_from_runtime, mut share) = UnixStream::from_std(shares).unwrap().into_split();
        let request = |number: u64| HomeRequest::Expire {
            nodes: vec![u64::MAX - number; 1000],
        };
        let (blocked, is_blocked) = tokio::sync::oneshot::channel();
        let sent = tokio::spawn(async move {
            let mut blocked = Some(blocked);
            for number in 0..1000 {
                let request = request(number);
                let write = frame::write(&mut share, &request);
                tokio::pin!(write);
                if let Ok(written) = timeout(SYNC_TIMEOUT, &mut write).await {
                    written.unwrap();
                    continue;
                }
                if let Some(blocked) = blocked.take() {
                    blocked.send(()).unwrap();
                }
                write.await.unwrap();
            }
        });
        is_blocked.await.expect("the file share is not blocked");
        for number in 0..1000 {
            let received: HomeRequest = frame::read(&mut agent).await.unwrap();
            assert_eq!(received, request(number));
        }
        sent.await.unwrap();
    }
}
