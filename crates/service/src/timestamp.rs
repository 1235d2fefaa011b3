//! Precision of timestamps.

use jiff::Timestamp;

/// Drops the fraction of a second: dates in configurations and replies are whole seconds.
pub(crate) fn whole_seconds(timestamp: Timestamp) -> Timestamp {
    Timestamp::from_second(timestamp.as_second()).unwrap_or(timestamp)
}
