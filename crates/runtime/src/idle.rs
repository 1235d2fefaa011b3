//! Observation of a machine that is suspended when it is idle.

use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};

/// Share of one processor of the host, in percent, above which a machine is in use. An idle machine
/// on an emulated processor needs 3 to 6.
const BUSY_PERCENT: u32 = 10;

/// Number of samples in the idle time.
const SAMPLES: u32 = 10;

/// Limits of the interval between two samples. The engine's processor time is counted in steps of
/// 10 ms, which are too coarse for a shorter one.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// Use of a machine at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Whether clients are connected to the guest, or TCP connections are open.
    pub is_in_use: bool,
    /// Number of connections of clients since the start.
    pub sessions: u64,
    /// Number of uses of the network since the start.
    pub network_uses: u64,
    /// Processor time of the engine; absent if it is not known.
    pub processor_time: Option<Duration>,
}

/// Observation of a machine. It takes no time of the processor while the idle time is off.
#[derive(Debug)]
pub(crate) struct IdleWatch {
    idle_time: Option<Duration>,
    last_use: Instant,
    last_sample: Option<(Instant, Sample)>,
    next_sample: Instant,
}

impl IdleWatch {
    /// Begins to observe a machine that is in use now.
    pub(crate) fn new(idle_time: Option<Duration>) -> IdleWatch {
        let now = Instant::now();
        IdleWatch {
            idle_time,
            last_use: now,
            last_sample: None,
            next_sample: now,
        }
    }

    /// Returns the idle time.
    pub(crate) fn idle_time(&self) -> Option<Duration> {
        self.idle_time
    }

    /// Waits until the next sample is due. Cancel safe.
    pub(crate) async fn due(&self) {
        match self.idle_time {
            Some(_) => sleep_until(self.next_sample).await,
            None => pending().await,
        }
    }

    /// Notes the use at this moment. Returns whether the machine has been idle for the idle time.
    pub(crate) fn observe(&mut self, sample: Sample) -> bool {
        let Some(idle_time) = self.idle_time else {
            return false;
        };
        let now = Instant::now();
        let last = self.last_sample.replace((now, sample));
        if last.is_none_or(|(then, last)| is_used(&last, &sample, now - then)) {
            self.last_use = now;
        }
        self.next_sample = now + (idle_time / SAMPLES).clamp(MIN_INTERVAL, MAX_INTERVAL);
        now - self.last_use >= idle_time
    }

    /// Begins the idle time again.
    pub(crate) fn restart(&mut self) {
        self.last_use = Instant::now();
    }
}

/// Whether a machine was used between two samples, which were taken `elapsed` apart.
fn is_used(last: &Sample, sample: &Sample, elapsed: Duration) -> bool {
    let is_busy = match (last.processor_time, sample.processor_time) {
        (Some(last), Some(now)) => now.saturating_sub(last) > elapsed * BUSY_PERCENT / 100,
        // Without the processor time, nothing shows that the machine is idle.
        _ => true,
    };
    is_busy
        || sample.is_in_use
        || sample.sessions != last.sessions
        || sample.network_uses != last.network_uses
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const IDLE: Sample = Sample {
        is_in_use: false,
        sessions: 0,
        network_uses: 0,
        processor_time: Some(Duration::ZERO),
    };

    /// Returns the time after which a machine is found idle, whose use at second n of the
    /// observation `sample` returns.
    async fn time_to_idle(idle_time: u64, sample: impl Fn(u64) -> Sample) -> u64 {
        let start = Instant::now();
        let mut watch = IdleWatch::new(Some(Duration::from_secs(idle_time)));
        loop {
            watch.due().await;
            let elapsed = start.elapsed().as_secs();
            if watch.observe(sample(elapsed)) || elapsed > 10_000 {
                return elapsed;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_machine_is_idle_after_the_idle_time() {
        assert_eq!(time_to_idle(30, |_| IDLE).await, 30);
        assert_eq!(time_to_idle(1800, |_| IDLE).await, 1800);
    }

    #[tokio::test(start_paused = true)]
    async fn every_kind_of_use_begins_the_idle_time_again() {
        let used: [fn(bool, u64) -> Sample; 4] = [
            |is_used, _| Sample {
                is_in_use: is_used,
                ..IDLE
            },
            |is_used, _| Sample {
                sessions: is_used.into(),
                ..IDLE
            },
            |is_used, _| Sample {
                network_uses: is_used.into(),
                ..IDLE
            },
            |is_used, second| Sample {
                // A fifth of a processor.
                processor_time: Some(Duration::from_millis(u64::from(is_used) * second * 200)),
                ..IDLE
            },
        ];
        for sample in used {
            let sample = |second| sample((20..40).contains(&second), second);
            let found = time_to_idle(30, sample).await;
            assert!((66..=72).contains(&found), "{found}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn little_use_of_the_processor_is_none() {
        let sample = |second| Sample {
            processor_time: Some(Duration::from_millis(second * 60)),
            ..IDLE
        };
        assert_eq!(time_to_idle(30, sample).await, 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_without_an_idle_time_is_not_observed() {
        let watch = IdleWatch::new(None);
        let due = tokio::spawn(async move { watch.due().await });
        advance(Duration::from_secs(100_000)).await;
        assert!(!due.is_finished());
    }
}
