//! Sets the system clock, and keeps it at the host's.
#![allow(unsafe_code)]

use std::{
    io, ptr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    libc,
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime, clock_settime},
};

use crate::kernel_log;

/// Difference in nanoseconds from which the clock is stepped. A smaller one is slewed, so that the
/// time never goes back.
const STEP: i128 = 500_000_000;

/// Correction of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Correction {
    /// The difference is below the measurement's error.
    None,
    /// Run faster or slower until the difference is made up.
    Slew,
    /// Set the clock.
    Step,
}

/// Sets the clock to `nanoseconds` since 1970-01-01 UTC.
pub(crate) fn set(nanoseconds: u64) -> nix::Result<()> {
    let now = TimeSpec::from_duration(Duration::from_nanos(nanoseconds));
    clock_settime(ClockId::CLOCK_REALTIME, now)
}

/// Returns the time since any moment, in nanoseconds, from a clock that is never set.
pub(crate) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// Corrects the clock by the host's, in nanoseconds since 1970-01-01 UTC. `round_trip` is the time
/// from the request to the reply; the host read its clock at some moment in it. A failure is only
/// logged.
pub(crate) fn follow(host: u64, round_trip: Duration) {
    let uncertainty = round_trip / 2;
    let host = Duration::from_nanos(host).saturating_add(uncertainty);
    let own = SystemTime::now().duration_since(UNIX_EPOCH);
    let difference = signed(host) - signed(own.unwrap_or_default());
    let corrected = match correction(difference, signed(uncertainty)) {
        Correction::None => Ok(()),
        Correction::Slew => slew(difference),
        Correction::Step => {
            kernel_log::info(&format!(
                "machine's clock set by {} ms, to the host's",
                difference / 1_000_000
            ));
            set(u64::try_from(host.as_nanos()).unwrap_or(u64::MAX)).map_err(io::Error::from)
        }
    };
    if let Err(error) = corrected {
        kernel_log::error(&format!("cannot correct the machine's clock: {error}"));
    }
}

fn signed(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// Returns the correction of a clock with this difference, both in nanoseconds.
fn correction(difference: i128, uncertainty: i128) -> Correction {
    if difference.abs() <= uncertainty {
        Correction::None
    } else if difference.abs() < STEP {
        Correction::Slew
    } else {
        Correction::Step
    }
}

/// Lets the kernel make up the difference by 0.5 ms in a second (adjtime(3)). Replaces a slew in
/// progress.
fn slew(nanoseconds: i128) -> io::Result<()> {
    let microseconds = i64::try_from(nanoseconds / 1000).unwrap_or_default();
    let delta = libc::timeval {
        tv_sec: microseconds / 1_000_000,
        tv_usec: microseconds % 1_000_000,
    };
    // SAFETY: the first pointer is valid during the call, and a null second one is allowed.
    if unsafe { libc::adjtime(&raw const delta, ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correction_depends_on_difference_and_error() {
        const MS: i128 = 1_000_000;
        for (difference, uncertainty, expected) in [
            (0, 0, Correction::None),
            (3 * MS, 5 * MS, Correction::None),
            (-3 * MS, MS, Correction::Slew),
            (499 * MS, MS, Correction::Slew),
            (500 * MS, MS, Correction::Step),
            (-8 * 3600 * 1000 * MS, 900 * MS, Correction::Step),
            // A guest that was busy for longer than the difference.
            (600 * MS, 900 * MS, Correction::None),
        ] {
            let made = correction(difference, uncertainty);
            assert_eq!(made, expected, "{difference} {uncertainty}");
        }
    }
}
