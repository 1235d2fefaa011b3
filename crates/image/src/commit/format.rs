//! Compression formats of a new layer.

use std::str::FromStr;

/// Compression of a new layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LayerFormat {
    /// gzip, which all tools support.
    #[default]
    Gzip,
    /// zstd: faster and smaller, but supported by newer tools only.
    Zstd,
}

/// The name is not a supported compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid compression {0:?} (supported: gzip, zstd)")]
pub struct InvalidLayerFormat(String);

impl FromStr for LayerFormat {
    type Err = InvalidLayerFormat;

    fn from_str(word: &str) -> Result<LayerFormat, InvalidLayerFormat> {
        match word {
            "gzip" => Ok(LayerFormat::Gzip),
            "zstd" => Ok(LayerFormat::Zstd),
            _ => Err(InvalidLayerFormat(word.to_owned())),
        }
    }
}
