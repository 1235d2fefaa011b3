//! Whoever waits for a long request.

use axum::body::Bytes;
use container_api::{Failure, Progress, StreamEvent};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::error::ServiceError;

/// Lines that may wait for a slow reader.
const BACKLOG: usize = 64;

/// Whoever asked for something that takes long: hears of progress, and may go away.
#[derive(Debug, Clone)]
pub struct Caller {
    lines: mpsc::Sender<Bytes>,
}

impl Caller {
    /// A caller, and the lines for it.
    pub fn new() -> (Caller, mpsc::Receiver<Bytes>) {
        let (lines, receiver) = mpsc::channel(BACKLOG);
        (Caller { lines }, receiver)
    }

    /// Tells how far it is; left out when the reader is too slow for it.
    pub fn tell(&self, progress: Progress) {
        let _ = self
            .lines
            .try_send(line(&StreamEvent::<()>::Progress(progress)));
    }

    /// Waits until nobody waits any more.
    pub async fn gone(&self) {
        self.lines.closed().await;
    }

    /// Tells how it ended.
    pub async fn finish<T: Serialize>(self, outcome: Result<T, ServiceError>) {
        let last = match outcome {
            Ok(done) => StreamEvent::Done(done),
            Err(error) => StreamEvent::Failed(Failure::from(&error)),
        };
        // Whoever asked may have gone.
        let _ = self.lines.send(line(&last)).await;
    }
}

fn line<T: Serialize>(event: &StreamEvent<T>) -> Bytes {
    // These types have no map keys or numbers that JSON could refuse.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
