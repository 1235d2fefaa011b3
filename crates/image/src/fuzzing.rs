//! Entry points for the fuzz targets in `fuzz/`, compiled only with `--cfg fuzzing`.
//!
//! They call the parsers of untrusted bytes directly, without a store and without digests: a fuzzer
//! cannot produce matching digests, so most inputs would not reach the parsers.

use std::{io::Read, path::Path};

use container_ext4::{Options, Writer};
use uuid::Uuid;

pub use crate::{
    credentials::fuzzing::read_credentials,
    registry::fuzzing::{read_body, read_header},
    settings::fuzzing::read_settings,
};

use crate::{
    Limits, ManifestError, UnpackError, manifest,
    unpack::{layer, limits::Budget},
};

/// Writes layers, given as uncompressed tar archives, into an ext4 file system of `size` bytes.
///
/// # Errors
/// [`UnpackError`], as for the layers of an image.
pub fn write_layers(
    layers: impl IntoIterator<Item = impl Read>,
    file: &Path,
    size: u64,
    limits: Limits,
) -> Result<(), UnpackError> {
    let options = Options {
        size,
        uuid: Uuid::nil(),
        journal_blocks: 1024,
    };
    let mut disk = Writer::create(file, &options)?;
    let mut budget = Budget::new(limits);
    for archive in layers {
        layer::apply(&mut disk, archive, &mut budget)?;
    }
    Ok(disk.finish()?)
}

/// Parses bytes as a manifest or an index.
///
/// # Errors
/// [`ManifestError`] if they are invalid.
pub fn read_manifest(bytes: &[u8]) -> Result<(), ManifestError> {
    manifest::parse(bytes, None).map(drop)
}

/// Parses bytes as the configuration of an image with this many layers.
///
/// # Errors
/// [`ManifestError`] if they are invalid.
pub fn read_configuration(bytes: &[u8], layers: usize) -> Result<(), ManifestError> {
    manifest::parse_config(bytes, layers).map(drop)
}
