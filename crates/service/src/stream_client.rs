//! The client of a request whose reply is a stream of events.

use axum::body::Bytes;
use container_api::{Failure, Progress, StreamEvent};
use serde::Serialize;
use tokio::sync::mpsc;

/// Events buffered for a client that reads slowly.
const BUFFERED_EVENTS: usize = 64;

/// The client that receives a streamed reply. It may disconnect at any time.
#[derive(Debug, Clone)]
pub(crate) struct StreamClient {
    lines: mpsc::Sender<Bytes>,
}

impl StreamClient {
    /// Returns a client, and the lines of its reply.
    pub(crate) fn new() -> (StreamClient, mpsc::Receiver<Bytes>) {
        let (lines, receiver) = mpsc::channel(BUFFERED_EVENTS);
        (StreamClient { lines }, receiver)
    }

    /// Sends progress. It is dropped if the buffer is full: a slow reader must not slow the request
    /// down.
    pub(crate) fn report(&self, progress: Progress) {
        let _ = self
            .lines
            .try_send(line(&StreamEvent::<()>::Progress(progress)));
    }

    /// Waits until the client has disconnected.
    pub(crate) async fn disconnected(&self) {
        self.lines.closed().await;
    }

    /// Sends the last event: the result of the request.
    pub(crate) async fn finish<T: Serialize>(self, outcome: Result<T, Failure>) {
        let last = match outcome {
            Ok(done) => StreamEvent::Done(done),
            Err(failure) => StreamEvent::Failed(failure),
        };
        // Fails if the client has disconnected.
        let _ = self.lines.send(line(&last)).await;
    }
}

fn line<T: Serialize>(event: &StreamEvent<T>) -> Bytes {
    // Serialization cannot fail: no reply has map keys or numbers that JSON does not allow.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
