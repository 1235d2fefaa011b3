//! The new layer's blob.

use std::{
    io::{self, ErrorKind, Read, Write},
    str::FromStr,
};

use flate2::{Compression as GzipLevel, GzBuilder, write::GzEncoder};
use tempfile::NamedTempFile;

use super::CommitError;
use crate::{
    Descriptor, Digest, ImageStore,
    digest::Hasher,
    media_type::{OCI_LAYER_GZIP, OCI_LAYER_ZSTD},
    store::{StoreError, sync_directory},
};

/// Bytes of the archive that are read at once.
const CHUNK: usize = 256 << 10;

/// How a new layer is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LayerFormat {
    /// With gzip, which everything reads.
    #[default]
    Gzip,
    /// With zstd: faster and smaller, and newer tools only read it.
    Zstd,
}

impl FromStr for LayerFormat {
    type Err = String;

    fn from_str(word: &str) -> Result<LayerFormat, String> {
        match word {
            "gzip" => Ok(LayerFormat::Gzip),
            "zstd" => Ok(LayerFormat::Zstd),
            _ => Err(format!("{word:?} is no compression: give gzip or zstd")),
        }
    }
}

/// A layer in the store.
#[derive(Debug)]
pub(super) struct NewLayer {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
}

/// Keeps the archive as a layer.
pub(super) fn write(
    store: &ImageStore,
    archive: &mut dyn Read,
    format: LayerFormat,
    progress: &dyn Fn(u64),
) -> Result<NewLayer, CommitError> {
    let directory = store.incoming();
    let file = NamedTempFile::new_in(&directory);
    let blob = Blob {
        file: file.map_err(StoreError::io("making a file in", &directory))?,
        hasher: Hasher::default(),
        size: 0,
    };
    let path = blob.file.path().to_owned();
    let failed = || StoreError::io("writing", &path);
    let mut packer = Packer::new(blob, format).map_err(failed())?;
    let mut hasher = Hasher::default();
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let count = match archive.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(CommitError::Archive(error)),
        };
        hasher.update(&chunk[..count]);
        packer.write(&chunk[..count]).map_err(failed())?;
        done += count as u64;
        progress(done);
    }
    let Blob {
        file,
        hasher: of_blob,
        size,
    } = packer.finish().map_err(failed())?;
    let digest = of_blob.finish();
    let target = store.blob_path(&digest);
    file.as_file().sync_all().map_err(failed())?;
    let persisted = file.persist(&target);
    persisted.map_err(|error| StoreError::io("writing", &target)(error.error))?;
    target.parent().map_or(Ok(()), sync_directory)?;
    Ok(NewLayer {
        blob: Descriptor {
            digest,
            media_type: match format {
                LayerFormat::Gzip => OCI_LAYER_GZIP,
                LayerFormat::Zstd => OCI_LAYER_ZSTD,
            }
            .to_owned(),
            size,
        },
        diff_id: hasher.finish(),
    })
}

enum Packer {
    Gzip(GzEncoder<Blob>),
    Zstd(zstd::Encoder<'static, Blob>),
}

impl Packer {
    fn new(blob: Blob, format: LayerFormat) -> io::Result<Packer> {
        Ok(match format {
            LayerFormat::Gzip => Packer::Gzip(GzBuilder::new().write(blob, GzipLevel::default())),
            LayerFormat::Zstd => {
                Packer::Zstd(zstd::Encoder::new(blob, zstd::DEFAULT_COMPRESSION_LEVEL)?)
            }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Packer::Gzip(packer) => packer.write_all(bytes),
            Packer::Zstd(packer) => packer.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Blob> {
        match self {
            Packer::Gzip(packer) => packer.finish(),
            Packer::Zstd(packer) => packer.finish(),
        }
    }
}

/// A blob whose digest is known when all of it has come. Dropped before, it leaves nothing.
struct Blob {
    file: NamedTempFile,
    hasher: Hasher,
    size: u64,
}

impl Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
