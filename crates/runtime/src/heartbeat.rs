//! Whether the guest of a running machine answers.
//!
//! The agent answers each request to compare its clock with a request for the host's, so these
//! requests are a heartbeat too.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Time after which a guest that does not answer is unresponsive. One on a busy host takes seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The oldest request that was not answered.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    unanswered: Mutex<Option<Instant>>,
}

impl Heartbeat {
    /// Notes a request.
    pub(crate) fn note_request(&self) {
        self.lock().get_or_insert_with(Instant::now);
    }

    /// Notes an answer, or that none is to be expected.
    pub(crate) fn note_answer(&self) {
        *self.lock() = None;
    }

    /// Returns whether the guest has not answered in time.
    pub(crate) fn is_overdue(&self) -> bool {
        self.lock().is_some_and(|since| since.elapsed() > TIMEOUT)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
