//! Writing the new layer: compressed, and hashed before and after compression.

use std::io::{self, ErrorKind, Read, Write};

use flate2::{Compression as GzipLevel, GzBuilder, write::GzEncoder};
use tempfile::NamedTempFile;

use super::{CommitError, LayerFormat};
use crate::{
    Descriptor, Digest, ImageStore,
    digest::Hasher,
    media_type::{OCI_LAYER_GZIP, OCI_LAYER_ZSTD},
    store::{StoreError, sync_directory},
};

/// Size in bytes of one read of the archive.
const CHUNK: usize = 256 << 10;

/// The new layer, stored as a blob.
#[derive(Debug)]
pub(super) struct NewLayer {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
}

/// Stores the archive as a layer. `progress` is called with the number of bytes read.
pub(super) fn write(
    store: &ImageStore,
    archive: &mut dyn Read,
    format: LayerFormat,
    progress: &dyn Fn(u64),
) -> Result<NewLayer, CommitError> {
    let directory = store.incoming();
    let file = NamedTempFile::new_in(&directory);
    let blob = HashedFile {
        file: file.map_err(StoreError::io("create a file in", &directory))?,
        hasher: Hasher::default(),
        size: 0,
    };
    let path = blob.file.path().to_owned();
    let failed = || StoreError::io("write", &path);
    let mut encoder = Encoder::new(blob, format).map_err(failed())?;
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
        encoder.write(&chunk[..count]).map_err(failed())?;
        done += count as u64;
        progress(done);
    }
    let HashedFile {
        file,
        hasher: blob_hasher,
        size,
    } = encoder.finish().map_err(failed())?;
    let digest = blob_hasher.finish();
    let target = store.blob_path(&digest);
    file.as_file().sync_all().map_err(failed())?;
    let persisted = file.persist(&target);
    persisted.map_err(|error| StoreError::io("write", &target)(error.error))?;
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

enum Encoder {
    Gzip(GzEncoder<HashedFile>),
    Zstd(zstd::Encoder<'static, HashedFile>),
}

impl Encoder {
    fn new(blob: HashedFile, format: LayerFormat) -> io::Result<Encoder> {
        Ok(match format {
            LayerFormat::Gzip => Encoder::Gzip(GzBuilder::new().write(blob, GzipLevel::default())),
            LayerFormat::Zstd => {
                Encoder::Zstd(zstd::Encoder::new(blob, zstd::DEFAULT_COMPRESSION_LEVEL)?)
            }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Encoder::Gzip(encoder) => encoder.write_all(bytes),
            Encoder::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<HashedFile> {
        match self {
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// File that is hashed while it is written. Removed when dropped.
struct HashedFile {
    file: NamedTempFile,
    hasher: Hasher,
    size: u64,
}

impl Write for HashedFile {
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
