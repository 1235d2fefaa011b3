//! Options of a commit.

use super::{Change, LayerFormat};

/// Metadata and format of the new image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// Author.
    pub author: Option<String>,
    /// Comment in the image's history.
    pub message: Option<String>,
    /// Changes of the base's configuration, applied in order.
    pub changes: Vec<Change>,
    /// Compression of the new layer.
    pub format: LayerFormat,
}
