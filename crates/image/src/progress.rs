//! How far a pull or an unpacking is.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is being done, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Bytes done in this step.
    pub done: u64,
    /// Bytes of this step in all, where that is known.
    pub total: Option<u64>,
}

/// A step on the way from a reference to a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The registry is asked what the reference means.
    Resolving,
    /// The registry cannot be reached; the image that is here is used.
    Offline {
        /// Why it cannot be reached, a sentence.
        reason: String,
    },
    /// The registry cannot tell whether the image has machine settings; those that it had before
    /// are used, if it had any.
    SettingsUnknown {
        /// Why not, a sentence.
        reason: String,
    },
    /// Layers are fetched. Bytes count all of them together.
    Downloading,
    /// A layer is written to the disk. Bytes are those of its compressed form.
    Unpacking {
        /// Which one, from 1.
        layer: usize,
        /// Of how many.
        layers: usize,
    },
}

/// Hears of progress. Called often: some ten times a second at most at usual speeds.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl Progress {
    pub(crate) fn step(step: Step) -> Progress {
        Progress {
            step,
            done: 0,
            total: None,
        }
    }
}

/// Bytes between two reports.
const INTERVAL: u64 = 1 << 20;

/// Counts bytes from several sides and reports now and then, and at the end.
pub(crate) struct Meter<'a> {
    listener: Listener<'a>,
    step: Step,
    done: AtomicU64,
    total: u64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(listener: Listener<'a>, step: Step, total: u64) -> Meter<'a> {
        let meter = Meter {
            listener,
            step,
            done: AtomicU64::new(0),
            total,
        };
        meter.report(0);
        meter
    }

    pub(crate) fn add(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let after = before + bytes;
        if before / INTERVAL != after / INTERVAL || (after == self.total && bytes > 0) {
            self.report(after);
        }
    }

    fn report(&self, done: u64) {
        (self.listener)(Progress {
            step: self.step.clone(),
            done,
            total: Some(self.total),
        });
    }
}
