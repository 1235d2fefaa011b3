//! Check that the clock of a template's kernel is as fast as the host's.

use std::time::{Duration, Instant};

/// The clock of a virtual machine, which was read over its channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockReading {
    /// Time of the host before the request.
    pub asked: Instant,
    /// Time of the host after the reply.
    pub answered: Instant,
    /// Time of the guest at some moment in between, since any moment.
    pub guest: Duration,
}

impl ClockReading {
    /// Returns whether the guest's clock has been right since an earlier reading, within a tenth.
    /// Delays of requests and replies count in its favour.
    pub(super) fn confirms(self, earlier: ClockReading) -> bool {
        let passed = self.guest.saturating_sub(earlier.guest);
        let least = self.asked.saturating_duration_since(earlier.answered);
        let most = self.answered.saturating_duration_since(earlier.asked);
        passed * 10 >= least * 9 && passed * 10 <= most * 11
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_too_fast_or_too_slow_is_noticed() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let reading = |asked, answered, guest| ClockReading {
            asked: after(asked),
            answered: after(answered),
            guest: Duration::from_millis(guest),
        };
        let first = reading(0, 10, 70_000);
        for (passed, is_right) in [
            (4000, true),
            (3700, true),
            (4300, true),
            (3500, false),
            (4600, false),
            (0, false),
            (400_000, false),
        ] {
            let last = reading(4000, 4010, 70_000 + passed);
            assert_eq!(last.confirms(first), is_right, "{passed}");
        }
        // The host was busy: the guest may have replied at any moment.
        assert!(reading(4000, 9000, 79_000).confirms(first));
        assert!(reading(4000, 9000, 74_000).confirms(first));
    }
}
