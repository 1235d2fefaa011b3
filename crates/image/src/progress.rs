//! How far a pull or an unpacking is.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What is being done, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Bytes done in this step.
    pub done: u64,
    /// Bytes of this step in all, where that is known.
    pub total: Option<u64>,
    /// Layers done in this step, where it is one of layers.
    pub layers: Option<Layers>,
}

/// How many layers of how many are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// Those that are done.
    pub done: usize,
    /// All of this step.
    pub total: usize,
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
    /// Somebody's credentials cannot be read. What everyone may have is fetched all the same.
    CredentialsUnknown {
        /// Why not, a sentence.
        reason: String,
    },
    /// The engine that the environment names cannot be asked; images that it alone has are not
    /// found.
    EngineUnknown {
        /// Which and why not.
        reason: String,
    },
    /// Of an image for several platforms, only one is here whole; that one is sent.
    OnePlatform {
        /// Which.
        platform: String,
    },
    /// Layers are sent. Bytes count all of them together.
    Uploading,
    /// Another program on this host hands the image over.
    TakingOver {
        /// Whose it is.
        place: String,
    },
    /// Layers are fetched. Bytes count all of them together.
    Downloading,
    /// Layers are written to the disk, one after the other. Bytes are those of their compressed
    /// form.
    Unpacking,
}

/// Hears of progress. Called often: some ten times a second at most at usual speeds.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl Progress {
    pub(crate) fn step(step: Step) -> Progress {
        Progress {
            step,
            done: 0,
            total: None,
            layers: None,
        }
    }
}

/// Bytes between two reports.
const INTERVAL: u64 = 1 << 20;

/// Counts the bytes of layers from several sides and reports now and then, whenever a layer is
/// done, and at the end.
pub(crate) struct Meter<'a> {
    listener: Listener<'a>,
    step: Step,
    done: AtomicU64,
    total: u64,
    layers_done: AtomicUsize,
    layers: usize,
}

impl<'a> Meter<'a> {
    /// A meter of these layers' sizes.
    pub(crate) fn new(
        listener: Listener<'a>,
        step: Step,
        sizes: impl ExactSizeIterator<Item = u64>,
    ) -> Meter<'a> {
        let meter = Meter {
            listener,
            step,
            done: AtomicU64::new(0),
            layers_done: AtomicUsize::new(0),
            layers: sizes.len(),
            total: sizes.fold(0, u64::saturating_add),
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

    /// One layer more is done.
    pub(crate) fn layer_done(&self) {
        self.layers_done.fetch_add(1, Ordering::Relaxed);
        self.report(self.done.load(Ordering::Relaxed));
    }

    fn report(&self, done: u64) {
        (self.listener)(Progress {
            step: self.step.clone(),
            done,
            total: Some(self.total),
            layers: Some(Layers {
                done: self.layers_done.load(Ordering::Relaxed),
                total: self.layers,
            }),
        });
    }
}
