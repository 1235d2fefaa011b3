//! Parsers of manifests, indexes and image configurations (image-spec, manifest.md, image-index.md,
//! config.md).
//!
//! The documents are untrusted: their digest proves that they arrived unchanged, and says nothing
//! about who wrote them. A document that two readers could understand differently is refused.
//!
//! - [`document`]: manifests and indexes;
//! - [`config`]: image configurations;
//! - [`error`]: what can be wrong with them.

mod config;
mod document;
mod error;

pub use config::{HistoryStep, ImageConfig};
pub use error::ManifestError;

pub(crate) use config::parse_config;
pub(crate) use document::{
    ImageManifest, IndexDepth, IndexEntry, Manifest, ReferencedBlobs, choose_platform, parse,
    parse_references,
};
