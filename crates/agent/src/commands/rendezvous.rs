//! Matches commands with their streams. The host opens all of them at once, so they arrive in any
//! order.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use container_protocol::{Port, mux::Stream};
use tokio::sync::oneshot;

/// Timeout for a stream to be taken by its command. Among hundreds of others, a command may start
/// long after the host has opened its streams.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Streams without a command yet, and commands without their stream yet.
#[derive(Debug, Default)]
pub(super) struct Rendezvous {
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

    /// Offers a stream to its command. It is dropped if the command does not take it in time.
    pub(super) async fn offer(&self, port: Port, stream: Stream) {
        let waiting = self.waiting().remove(&port);
        match waiting {
            Some(Waiting::Command(command)) => drop(command.send(stream)),
            // A second stream for the same port replaces the first, whose opener sees a reset.
            Some(Waiting::Stream(_)) | None => {
                self.waiting().insert(port, Waiting::Stream(stream));
                tokio::time::sleep(TIMEOUT).await;
                let mut waiting = self.waiting();
                if matches!(waiting.get(&port), Some(Waiting::Stream(_))) {
                    waiting.remove(&port);
                }
            }
        }
    }

    /// Takes a stream, waiting for it to arrive. Returns `None` if another command waits for it.
    pub(super) async fn take(&self, port: Port) -> Option<Stream> {
        let arrival = {
            let mut waiting = self.waiting();
            match waiting.remove(&port) {
                Some(Waiting::Stream(stream)) => return Some(stream),
                Some(Waiting::Command(_)) | None => {
                    let (command, arrival) = oneshot::channel();
                    waiting.insert(port, Waiting::Command(command));
                    arrival
                }
            }
        };
        let _forget = Forget { of: self, port };
        arrival.await.ok()
    }
}

/// Removes a command that waits for a stream, when this is dropped.
struct Forget<'rendezvous> {
    of: &'rendezvous Rendezvous,
    port: Port,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut waiting = self.of.waiting();
        if matches!(waiting.get(&self.port), Some(Waiting::Command(_))) {
            waiting.remove(&self.port);
        }
    }
}
