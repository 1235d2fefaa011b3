//! Use of a machine's network, from which its runtime knows whether the machine is idle.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Use of a network, written by its task.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    uses: AtomicU64,
    connections: AtomicUsize,
}

impl Usage {
    /// Counts a use: a connection or datagram of the host, or a packet from or to another machine.
    pub(crate) fn count(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of uses since the start.
    pub(crate) fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    /// Sets the number of open TCP connections, in both directions.
    pub(crate) fn set_connections(&self, number: usize) {
        self.connections.store(number, Ordering::Relaxed);
    }

    /// Whether there are open TCP connections.
    pub(crate) fn has_connections(&self) -> bool {
        self.connections.load(Ordering::Relaxed) > 0
    }
}
