//! The parts that read what strangers wrote, to be driven directly by fuzz targets and by the
//! corpus: without a store, and without digests, which would keep most inputs from them.

use std::{io::Read, path::Path};

use container_ext4::{Options, Writer};
use uuid::Uuid;

use crate::{
    FetchError, Limits, UnpackError, manifest,
    unpack::{layer, limits::Budget},
};

/// Writes layers, which are plain archives, into a file system of this many bytes.
///
/// # Errors
/// As for the layers of an image.
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

/// Reads bytes as a manifest or an index.
///
/// # Errors
/// As for an image's.
pub fn read_manifest(bytes: &[u8]) -> Result<(), FetchError> {
    manifest::parse(bytes, None).map(drop)
}

/// Reads bytes as the configuration of an image with this many layers.
///
/// # Errors
/// As for an image's.
pub fn read_configuration(bytes: &[u8], layers: usize) -> Result<(), FetchError> {
    manifest::configuration(bytes, layers).map(drop)
}
