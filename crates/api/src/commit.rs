//! Commits: images made from machines.

use serde::{Deserialize, Serialize};

use crate::CallerEnvironment;

/// Request to make an image from a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitRequest {
    /// Reference of the new image as the user typed it.
    pub reference: String,
    /// Author for the image's history.
    #[serde(default)]
    pub author: Option<String>,
    /// Comment for the image's history.
    #[serde(default)]
    pub message: Option<String>,
    /// Changes of the image's configuration, each a Dockerfile instruction.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Compression of the new layer: `gzip` (if absent) or `zstd`.
    #[serde(default)]
    pub compression: Option<String>,
    /// Whether a running machine is paused while its disk is read.
    pub pause: bool,
    /// The caller's environment.
    #[serde(default)]
    pub environment: CallerEnvironment,
}

/// Reply to a [`CommitRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Reference of the image with registry and tag.
    pub reference: String,
    /// Digest of the image's manifest.
    pub digest: String,
}
