//! Progress reports of pulls, pushes and unpacking.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Progress of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Current step.
    pub step: Step,
    /// Bytes done in this step.
    pub done: u64,
    /// Total bytes of this step. `None` when unknown.
    pub total: Option<u64>,
    /// Layers of this step. `None` when it does not process layers.
    pub layers: Option<LayerCount>,
}

/// Number of layers that a step has processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerCount {
    /// Processed layers.
    pub done: usize,
    /// All layers of the step.
    pub total: usize,
}

/// Step of an operation, or a notice about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The reference is resolved at the registry.
    Resolving,
    /// The registry cannot be reached; the image in the store is used.
    Offline {
        /// Error of the registry.
        reason: String,
    },
    /// The machine settings of the image cannot be fetched; those in the store are used, if any.
    SettingsUnavailable {
        /// Error of the registry.
        reason: String,
    },
    /// Stored credentials cannot be read. The registry was accessed without them.
    CredentialsSkipped {
        /// Error of the file or credential helper.
        reason: String,
    },
    /// The engine that `DOCKER_HOST` or `CONTAINER_HOST` names cannot be reached. Its images are
    /// ignored.
    EngineSkipped {
        /// Variable, its value and the error.
        reason: String,
    },
    /// An index is incomplete in the store. Only the image of this platform is pushed.
    OnePlatform {
        /// Platform of the pushed image.
        platform: String,
    },
    /// Layers are uploaded. Bytes count all layers together.
    Uploading,
    /// The image is loaded from another program on this host.
    Importing {
        /// Engine or store that has the image, for people.
        store: String,
    },
    /// Layers are downloaded. Bytes count all layers together.
    Downloading,
    /// Layers are unpacked into the base, one after the other. Bytes are those of the compressed
    /// layers.
    Unpacking,
}

/// Callback for progress. It is called up to about ten times a second.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl From<Step> for Progress {
    fn from(step: Step) -> Progress {
        Progress {
            step,
            done: 0,
            total: None,
            layers: None,
        }
    }
}

/// Bytes between two reports of a [`Meter`].
const REPORT_INTERVAL: u64 = 1 << 20;

/// Counter of the bytes of a step, shared by concurrent transfers. It reports at intervals, after
/// each layer, and at the end.
pub(crate) struct Meter<'a> {
    listener: Listener<'a>,
    step: Step,
    done: AtomicU64,
    total: u64,
    layers_done: AtomicUsize,
    layers: usize,
}

impl<'a> Meter<'a> {
    /// Creates a meter for layers of these sizes and makes the first report.
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
            // The sizes come from a manifest, and may be wrong.
            total: sizes.fold(0, u64::saturating_add),
        };
        meter.report(0);
        meter
    }

    pub(crate) fn add(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let after = before + bytes;
        if before / REPORT_INTERVAL != after / REPORT_INTERVAL || (after == self.total && bytes > 0)
        {
            self.report(after);
        }
    }

    /// Counts a processed layer.
    pub(crate) fn layer_done(&self) {
        self.layers_done.fetch_add(1, Ordering::Relaxed);
        self.report(self.done.load(Ordering::Relaxed));
    }

    fn report(&self, done: u64) {
        (self.listener)(Progress {
            step: self.step.clone(),
            done,
            total: Some(self.total),
            layers: Some(LayerCount {
                done: self.layers_done.load(Ordering::Relaxed),
                total: self.layers,
            }),
        });
    }
}
