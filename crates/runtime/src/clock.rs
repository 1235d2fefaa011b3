//! The host's clock, and when the guest compares its own with it.
//!
//! A guest's clock does not count the host's suspension, does not follow a step of the host's
//! clock, and drifts on an emulated processor.
#![allow(unsafe_code)]

use std::{
    future::pending,
    io,
    os::fd::OwnedFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

/// Interval of comparisons that no event of the host causes. They show that the guest answers.
const INTERVAL: Duration = Duration::from_secs(20);

/// Expiration of the timer in seconds since 1970. It is only read when the clock is set.
const NEVER: i64 = i64::MAX / 1_000_000_000;

/// Returns the host's clock in nanoseconds since 1970 UTC.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// Source of the moments at which the guest compares its clock.
pub(crate) struct Comparisons {
    interval: Interval,
    /// Readable after the host's clock was set or the host has resumed. Absent if the kernel
    /// refuses the timer.
    steps: Option<AsyncFd<OwnedFd>>,
}

impl Comparisons {
    /// Returns a source whose first interval begins now.
    pub(crate) fn new() -> Comparisons {
        let mut interval = interval_at(Instant::now() + INTERVAL, INTERVAL);
        // The interval's own clock may not count a suspension either.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let steps = step_timer().inspect_err(|error| {
            tracing::warn!("cannot watch the host's clock for steps: {error}");
        });
        Comparisons {
            interval,
            steps: steps.ok(),
        }
    }

    /// Waits for the next comparison. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interval.tick() => {}
            () = stepped(&mut self.steps) => {}
        }
    }
}

/// Returns a timer of `timerfd_create(2)` that is cancelled when the clock is set, which includes a
/// resumption of the host.
fn step_timer() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    let never = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: NEVER,
            tv_nsec: 0,
        },
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(&timer, flags, &never)?;
    // SAFETY: the descriptor is owned by the `AsyncFd`, which nothing replaces.
    Ok(unsafe { AsyncFd::register(timer) }?)
}

async fn stepped(timer: &mut Option<AsyncFd<OwnedFd>>) {
    let Some(steps) = timer else {
        return pending().await;
    };
    loop {
        let Ok(mut ready) = steps.readable().await else {
            *timer = None;
            return pending().await;
        };
        match rustix::io::read(ready.get_inner(), &mut [0; 8]) {
            Err(rustix::io::Errno::CANCELED) => return,
            Err(rustix::io::Errno::INTR) => {}
            // The kernel has no more to report.
            _ => ready.clear_ready(),
        }
    }
}
