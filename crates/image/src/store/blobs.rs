//! Content, checked on its way in.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{ImageStore, StoreError, sync_directory};
use crate::{Descriptor, Digest, digest::Hasher};

impl ImageStore {
    /// Where the blob of that digest is, there or not.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Whether the blob is there.
    pub(crate) fn has(&self, descriptor: &Descriptor) -> bool {
        fs::metadata(self.blob_path(&descriptor.digest))
            .is_ok_and(|file| file.len() == descriptor.size)
    }

    /// A small blob, if it is there; one that was damaged on disk is not.
    pub(crate) fn small(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.blob_path(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(Some(bytes)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("reading", &path)(error)),
        }
    }

    /// Keeps a small blob that was read whole.
    pub(crate) fn keep(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), StoreError> {
        let mut blob = self.begin(descriptor)?;
        blob.write(bytes)?;
        blob.finish()
    }

    /// Begins a blob, which is there once it is [finished](IncomingBlob::finish).
    pub(crate) fn begin(&self, descriptor: &Descriptor) -> Result<IncomingBlob, StoreError> {
        let directory = self.incoming();
        let file = NamedTempFile::new_in(&directory);
        Ok(IncomingBlob {
            file: file.map_err(StoreError::io("making a file in", &directory))?,
            hasher: Hasher::default(),
            written: 0,
            descriptor: descriptor.clone(),
            target: self.blob_path(&descriptor.digest),
        })
    }

    /// Removes a blob whose bytes have changed on disk since they were checked, so that the next
    /// pull fetches it again. Says whether there was such a thing.
    pub(crate) fn remove_if_damaged(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.blob_path(digest);
        let reading = || StoreError::io("reading", &path);
        let mut file = match fs::File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            file => file.map_err(reading())?,
        };
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match std::io::Read::read(&mut file, &mut buffer).map_err(reading())? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        let is_damaged = hasher.finish() != *digest;
        if is_damaged {
            fs::remove_file(&path).map_err(StoreError::io("removing", &path))?;
        }
        Ok(is_damaged)
    }
}

/// A blob that is not there yet. Dropped unfinished, it leaves nothing.
pub(crate) struct IncomingBlob {
    file: NamedTempFile,
    hasher: Hasher,
    written: u64,
    descriptor: Descriptor,
    target: PathBuf,
}

impl IncomingBlob {
    /// Where it will be.
    pub(crate) fn path(&self) -> &Path {
        &self.target
    }

    /// A file of its own with the blob's bytes, from the first on.
    pub(crate) fn reader(&self) -> Result<fs::File, StoreError> {
        self.file
            .reopen()
            .map_err(StoreError::io("opening", self.file.path()))
    }

    /// Takes the next bytes; returns how many there are in all.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<u64, StoreError> {
        self.written += bytes.len() as u64;
        if self.written > self.descriptor.size {
            return Err(self.wrong_size());
        }
        self.hasher.update(bytes);
        let written = self.file.write_all(bytes);
        written.map_err(StoreError::io("writing", self.file.path()))?;
        Ok(self.written)
    }

    /// Checks the whole and gives it its name.
    pub(crate) fn finish(self) -> Result<(), StoreError> {
        if self.written != self.descriptor.size {
            return Err(self.wrong_size());
        }
        let found = self.hasher.finish();
        if found != self.descriptor.digest {
            return Err(StoreError::WrongDigest {
                expected: self.descriptor.digest,
                found,
            });
        }
        let failed = || StoreError::io("writing", &self.target);
        self.file.as_file().sync_all().map_err(failed())?;
        let persisted = self.file.persist(&self.target);
        persisted.map_err(|error| failed()(error.error))?;
        self.target.parent().map_or(Ok(()), sync_directory)
    }

    fn wrong_size(&self) -> StoreError {
        StoreError::WrongSize {
            digest: self.descriptor.digest,
            expected: self.descriptor.size,
            found: self.written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(content: &[u8]) -> Descriptor {
        Descriptor {
            digest: Digest::of(content),
            media_type: "text/plain".to_owned(),
            size: content.len() as u64,
        }
    }

    fn files_in(path: PathBuf) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn what_is_kept_can_be_read() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let wanted = descriptor(b"content");
        assert!(!store.has(&wanted));
        store.keep(&wanted, b"content").unwrap();
        assert!(store.has(&wanted));
        let read = store.small(&wanted.digest).unwrap();
        assert_eq!(read.as_deref(), Some(b"content".as_slice()));
    }

    #[test]
    fn wrong_bytes_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let wanted = descriptor(b"content");
        let other = store.keep(&wanted, b"CONTENT").unwrap_err();
        assert!(matches!(other, StoreError::WrongDigest { .. }), "{other}");
        for bytes in [b"conten".as_slice(), b"contents"] {
            let error = store.keep(&wanted, bytes).unwrap_err();
            assert!(matches!(error, StoreError::WrongSize { .. }), "{error}");
        }
        assert!(!store.has(&wanted));
        assert_eq!(files_in(store.incoming()), 0);
        assert_eq!(files_in(root.path().join("blobs/sha256")), 0);
    }

    #[test]
    fn damage_on_disk_is_found_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let wanted = descriptor(b"content");
        store.keep(&wanted, b"content").unwrap();
        assert!(!store.remove_if_damaged(&wanted.digest).unwrap());
        fs::write(store.blob_path(&wanted.digest), b"CONTENT").unwrap();
        assert_eq!(store.small(&wanted.digest).unwrap(), None);
        assert!(store.remove_if_damaged(&wanted.digest).unwrap());
        assert!(!store.has(&wanted));
    }
}
