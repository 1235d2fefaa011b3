//! The frequency of this processor's time stamp counter, which the counter of an emulated
//! processor has as well.
#![allow(unsafe_code)]

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

/// Time over which the frequency is measured. The error is some 0.01 %.
const MEASURED_TIME: Duration = Duration::from_millis(2);

/// Number of readings of the counter, of which the one that took the shortest time is used.
const READINGS: usize = 5;

/// A frequency in MHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frequency(pub(super) u64);

impl Frequency {
    /// Measures the counter's frequency. Returns `None` if the frequency changes, or if the
    /// processor has no such counter.
    pub(super) fn measure() -> Option<Frequency> {
        let processors = fs::read_to_string("/proc/cpuinfo").ok()?;
        let flags = processors.lines().find(|line| line.starts_with("flags"))?;
        if !flags.split(' ').any(|flag| flag == "constant_tsc") {
            return None;
        }
        Frequency::measure_for(MEASURED_TIME)
    }

    fn measure_for(duration: Duration) -> Option<Frequency> {
        let (first_time, first) = read()?;
        sleep(duration);
        let (time, value) = read()?;
        let nanoseconds = time.checked_duration_since(first_time)?.as_nanos();
        let ticks = u128::from(value.checked_sub(first)?);
        let megahertz = (ticks * 1000 + nanoseconds / 2).checked_div(nanoseconds)?;
        u64::try_from(megahertz).ok().map(Frequency)
    }

    /// Returns the kernel parameter with this frequency.
    pub(super) fn parameter(self) -> String {
        format!("tsc_early_khz={}000", self.0)
    }
}

/// Reads the counter, and the time at that moment.
fn read() -> Option<(Instant, u64)> {
    let readings = (0..READINGS).map(|_| {
        let before = Instant::now();
        let value = counter();
        let duration = before.elapsed();
        (duration, before + duration / 2, value)
    });
    let (_, time, value) = readings.min_by_key(|(duration, ..)| *duration)?;
    Some((time, value?))
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::unnecessary_wraps, reason = "other processors have no counter")]
fn counter() -> Option<u64> {
    // SAFETY: every processor of this architecture has the instruction. The kernel can disable it
    // for a process that asks for that (PR_SET_TSC), which this one does not.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_measurement_has_the_same_result() {
        let Some(Frequency(measured)) = Frequency::measure() else {
            return;
        };
        let Frequency(exact) = Frequency::measure_for(Duration::from_millis(100)).unwrap();
        assert!(
            measured.abs_diff(exact) <= 1 + exact / 100,
            "{measured} {exact}"
        );
    }

    #[test]
    fn the_parameter_is_in_khz() {
        assert_eq!(Frequency(2594).parameter(), "tsc_early_khz=2594000");
    }
}
