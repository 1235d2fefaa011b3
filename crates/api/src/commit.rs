//! From a machine to an image, on the wire.

use serde::{Deserialize, Serialize};

use crate::CallerEnvironment;

/// What image is to be made of a machine, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitRequest {
    /// The new image's reference as the person wrote it.
    pub reference: String,
    /// Who makes it.
    #[serde(default)]
    pub author: Option<String>,
    /// What it is, for its history.
    #[serde(default)]
    pub message: Option<String>,
    /// Changes of its configuration, each as in a Dockerfile.
    #[serde(default)]
    pub changes: Vec<String>,
    /// How its layer is packed: `gzip` or `zstd`; the former where nothing is said.
    #[serde(default)]
    pub compression: Option<String>,
    /// Whether a running machine stands still while it is read.
    pub pause: bool,
    /// What the environment of whoever asks says about images.
    #[serde(default)]
    pub environment: CallerEnvironment,
}

/// The image that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Its reference, in full.
    pub reference: String,
    /// Its manifest's digest.
    pub digest: String,
}
