//! Attempts of the guest to reach what it may not reach.

use std::time::{SystemTime, UNIX_EPOCH};

use container_protocol::local::{Blocked, BlockedDestination, BlockedKind};

use crate::throttle::Throttle;

/// Limit of destinations. Beyond it, the least recent one is forgotten.
const MAX_DESTINATIONS: usize = 32;

/// The number of attempts, and the latest destinations.
#[derive(Debug, Default)]
pub(crate) struct BlockedAttempts {
    blocked: Blocked,
    logged: Throttle,
}

impl BlockedAttempts {
    /// Counts an attempt, and logs it unless another has been logged shortly before.
    pub(crate) fn add(&mut self, kind: BlockedKind, destination: String) {
        if let Some(more) = self.logged.admit() {
            let what = match kind {
                BlockedKind::Tcp => "connection to",
                BlockedKind::Udp => "datagram to",
                BlockedKind::Icmp => "ping of",
                BlockedKind::Dns => "lookup of",
            };
            tracing::warn!(
                "{what} {destination} blocked by the machine's egress rules ({more} more blocked \
                 before)"
            );
        }
        let blocked = &mut self.blocked;
        blocked.total += 1;
        let is_same =
            |other: &BlockedDestination| other.kind == kind && other.destination == destination;
        let known = blocked.latest.iter().position(is_same);
        let count = known.map_or(0, |at| blocked.latest.remove(at).count);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let latest = BlockedDestination {
            count: count + 1,
            destination,
            kind,
            last_seconds: since_1970.unwrap_or_default().as_secs(),
        };
        blocked.latest.insert(0, latest);
        blocked.latest.truncate(MAX_DESTINATIONS);
    }

    /// Returns what has been counted.
    pub(crate) fn get(&self) -> &Blocked {
        &self.blocked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_destinations_are_kept_with_their_counts() {
        let mut attempts = BlockedAttempts::default();
        attempts.add(BlockedKind::Tcp, "a.test:443".to_owned());
        attempts.add(BlockedKind::Udp, "a.test:443".to_owned());
        attempts.add(BlockedKind::Tcp, "a.test:443".to_owned());
        let blocked = attempts.get();
        assert_eq!((blocked.total, blocked.latest.len()), (3, 2));
        assert_eq!(
            (blocked.latest[0].kind, blocked.latest[0].count),
            (BlockedKind::Tcp, 2)
        );
        for number in 0..100 {
            attempts.add(BlockedKind::Dns, format!("{number}.test"));
        }
        let blocked = attempts.get();
        assert_eq!(
            (blocked.total, blocked.latest.len()),
            (103, MAX_DESTINATIONS)
        );
        assert_eq!(blocked.latest[0].destination, "99.test");
    }
}
