//! Sets the system clock.

use std::time::Duration;

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
};

/// Sets the clock to `nanoseconds` since 1970-01-01 UTC.
pub(crate) fn set(nanoseconds: u64) -> nix::Result<()> {
    let now = TimeSpec::from_duration(Duration::from_nanos(nanoseconds));
    clock_settime(ClockId::CLOCK_REALTIME, now)
}
