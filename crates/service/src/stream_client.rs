//! The client of a request whose reply is a stream of events.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use container_api::{Failure, Progress, Step, StreamEvent};
use serde::Serialize;
use tokio::sync::mpsc;

/// Events buffered for a client that reads slowly.
const BUFFERED_EVENTS: usize = 128;

/// Buffered events that do not report the advance of a step.
const RESERVED_EVENTS: usize = 64;

/// The client that receives a streamed reply. It may disconnect at any time.
#[derive(Debug, Clone)]
pub(crate) struct StreamClient {
    lines: mpsc::Sender<Bytes>,
    /// Name of the step that began last.
    step: Arc<Mutex<String>>,
}

impl StreamClient {
    /// Returns a client, and the lines of its reply.
    pub(crate) fn new() -> (StreamClient, mpsc::Receiver<Bytes>) {
        let (lines, receiver) = mpsc::channel(BUFFERED_EVENTS);
        let step = Arc::default();
        (StreamClient { lines, step }, receiver)
    }

    /// Sends progress. If the client reads slowly, it misses reports that a step has advanced: it
    /// must not slow the request down.
    pub(crate) fn report(&self, progress: Progress) {
        let is_advance = match &progress {
            Progress::Step(step) => !self.begins(step),
            Progress::Note(_) => false,
        };
        if is_advance && self.lines.capacity() <= RESERVED_EVENTS {
            return;
        }
        // Fails if the client has disconnected, or has not read for very many steps.
        let _ = self
            .lines
            .try_send(line(&StreamEvent::<()>::Progress(progress)));
    }

    /// Records a step. Returns whether it is another one than the last.
    fn begins(&self, step: &Step) -> bool {
        let mut last = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = *last != step.name;
        if is_other {
            last.clone_from(&step.name);
        }
        is_other
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_readers_miss_no_step_and_no_note() {
        let (client, mut lines) = StreamClient::new();
        let steps = ["fetching image", "unpacking image", "booting machine"];
        for step in steps {
            for _ in 0..1000 {
                client.report(Progress::step(step));
            }
            client.report(Progress::Note(format!("after {step}")));
        }
        let mut received = Vec::new();
        while let Ok(line) = lines.try_recv() {
            let event: StreamEvent<()> = serde_json::from_slice(&line).unwrap();
            received.push(event);
        }
        received.dedup();
        let expected = steps.into_iter().flat_map(|step| {
            [
                StreamEvent::Progress(Progress::step(step)),
                StreamEvent::Progress(Progress::Note(format!("after {step}"))),
            ]
        });
        assert_eq!(received, expected.collect::<Vec<_>>());
    }
}
