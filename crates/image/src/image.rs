//! An image that is here.

use std::collections::BTreeMap;

use crate::{Descriptor, Digest, MachineSettings, Platform, Reference, media_type::Compression};

/// An image for one platform whose every part is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What was asked for.
    pub reference: Reference,
    /// What the reference leads to: an index, or the manifest itself.
    pub descriptor: Descriptor,
    /// The platform's manifest.
    pub manifest: Descriptor,
    /// The platform's configuration.
    pub(crate) config: Digest,
    /// What it runs on.
    pub platform: Platform,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// What to run.
    pub entrypoint: Vec<String>,
    /// What to run, or the entry point's arguments.
    pub command: Vec<String>,
    /// Where to run it.
    pub working_directory: Option<String>,
    /// As whom to run it.
    pub user: Option<String>,
    /// How to stop it: `SIGRTMIN+3`, `SIGTERM`, a number.
    pub stop_signal: Option<String>,
    /// Whatever its maker says about it.
    pub labels: BTreeMap<String, String>,
    /// What its author says about machines made from it.
    pub settings: MachineSettings,
    /// The lowest first.
    pub(crate) layers: Vec<Layer>,
}

impl Image {
    /// Its layers' blobs, the lowest first.
    pub(crate) fn blobs(&self) -> impl ExactSizeIterator<Item = &Descriptor> {
        self.layers.iter().map(|layer| &layer.blob)
    }
}

/// What an image adds to those below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) blob: Descriptor,
    pub(crate) compression: Compression,
    /// The digest of the archive in it.
    pub(crate) diff_id: Digest,
}
