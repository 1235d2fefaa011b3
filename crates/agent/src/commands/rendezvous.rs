//! Where a command meets its streams: they are opened at once and arrive in any order.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use container_protocol::{Port, mux::Stream};
use tokio::{sync::oneshot, time::timeout};

/// How long one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Streams that wait for their command, and commands that wait for their streams.
#[derive(Debug, Default)]
pub struct Rendezvous {
    waiting: Mutex<HashMap<Port, Waiting>>,
}

#[derive(Debug)]
enum Waiting {
    Command(oneshot::Sender<Stream>),
    Stream(Stream),
}

impl Rendezvous {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Port, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a stream; it is dropped if no command takes it in time.
    pub async fn bring(&self, port: Port, stream: Stream) {
        let waiting = self.waiting().remove(&port);
        match waiting {
            Some(Waiting::Command(taker)) => drop(taker.send(stream)),
            // A second stream of one name replaces the first, which its opener sees reset.
            Some(Waiting::Stream(_)) | None => {
                self.waiting().insert(port, Waiting::Stream(stream));
                tokio::time::sleep(PATIENCE).await;
                let mut waiting = self.waiting();
                if matches!(waiting.get(&port), Some(Waiting::Stream(_))) {
                    waiting.remove(&port);
                }
            }
        }
    }

    /// Takes a stream, waiting for it to arrive; none if it does not in time.
    pub async fn take(&self, port: Port) -> Option<Stream> {
        let arrival = {
            let mut waiting = self.waiting();
            match waiting.remove(&port) {
                Some(Waiting::Stream(stream)) => return Some(stream),
                Some(Waiting::Command(_)) | None => {
                    let (taker, arrival) = oneshot::channel();
                    waiting.insert(port, Waiting::Command(taker));
                    arrival
                }
            }
        };
        let stream = timeout(PATIENCE, arrival).await;
        self.waiting().remove(&port);
        stream.ok()?.ok()
    }
}
