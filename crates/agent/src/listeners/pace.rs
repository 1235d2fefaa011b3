//! Decides when the list of sockets is read again.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::socket_events::SocketEvents;
use crate::kernel_log;

/// Interval between reads if the kernel supports no socket events.
const INTERVAL: Duration = Duration::from_millis(400);

/// Interval between reads without an event. The ring buffer of the events may overflow.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);

/// Delays of the reads that follow an event. A socket listens before its event, but ends after it,
/// so one read at the event is not enough.
const SETTLE_DELAYS: [Duration; 2] = [Duration::from_millis(40), Duration::from_millis(400)];

/// Minimum interval between two reads, because events come in bursts.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Timing of the reads.
pub(super) struct Pace {
    /// `None` without support for socket events in the kernel.
    events: Option<SocketEvents>,
    last_read: Instant,
    /// Number of reads since the last event, at most that of the settle delays.
    reads_since_event: usize,
}

impl Pace {
    /// Attaches to the kernel's socket events, if it supports them.
    pub(super) fn new() -> Pace {
        let events = SocketEvents::attach();
        if let Err(error) = &events {
            kernel_log::error(&format!(
                "the kernel does not support socket events ({error}); listeners are looked for \
                 every {INTERVAL:?}"
            ));
        }
        Pace {
            events: events.ok(),
            ..Pace::polling()
        }
    }

    /// Reads at an interval.
    pub(super) fn polling() -> Pace {
        Pace {
            events: None,
            last_read: Instant::now(),
            reads_since_event: 0,
        }
    }

    /// Waits until the list has to be read again.
    pub(super) async fn wait(&mut self) {
        let Some(events) = &mut self.events else {
            return sleep(INTERVAL).await;
        };
        let delay = SETTLE_DELAYS
            .get(self.reads_since_event)
            .unwrap_or(&IDLE_INTERVAL);
        match timeout(*delay, events.next()).await {
            Ok(Ok(())) => {
                sleep_until(self.last_read + MIN_INTERVAL).await;
                self.reads_since_event = 0;
            }
            Ok(Err(error)) => {
                kernel_log::error(&format!("cannot wait for socket events: {error}"));
                self.events = None;
            }
            Err(_) => {
                self.reads_since_event = SETTLE_DELAYS.len().min(self.reads_since_event + 1);
            }
        }
        self.last_read = Instant::now();
    }

    /// Returns whether a program is known to have bound a UDP socket to this port by its number.
    pub(super) fn was_requested(&self, port: u16) -> bool {
        let events = self.events.as_ref();
        events.is_some_and(|events| events.was_requested(port))
    }
}
