//! Blobs: whether they are stored, and reading and writing them. Every byte is hashed on the way
//! in.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{ImageStore, StoreError, sync_directory};
use crate::{Descriptor, Digest, digest::Hasher};

impl ImageStore {
    /// Path of the blob with this digest, whether it exists or not.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Whether the blob is stored. Only its size is compared, not its digest.
    pub(crate) fn has_blob(&self, descriptor: &Descriptor) -> bool {
        fs::metadata(self.blob_path(&descriptor.digest))
            .is_ok_and(|file| file.len() == descriptor.size)
    }

    /// Reads a small blob; `None` for one that is missing or was damaged on disk.
    pub(crate) fn read_small(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.blob_path(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::compute(&bytes) == *digest => Ok(Some(bytes)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Stores a blob whose bytes are all in memory.
    pub(crate) fn write_blob(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let mut blob = self.create_blob(descriptor)?;
        blob.write(bytes)?;
        blob.finish()
    }

    /// Begins to write a blob, which is stored when it is [finished](IncomingBlob::finish).
    pub(crate) fn create_blob(&self, descriptor: &Descriptor) -> Result<IncomingBlob, StoreError> {
        let directory = self.incoming();
        let file = NamedTempFile::new_in(&directory);
        Ok(IncomingBlob {
            file: file.map_err(StoreError::io("create a file in", &directory))?,
            hasher: Hasher::default(),
            written: 0,
            descriptor: descriptor.clone(),
            target: self.blob_path(&descriptor.digest),
        })
    }

    /// Hashes a blob and removes it if it does not have its digest any more, so that the next pull
    /// fetches it again. Returns whether the blob was damaged or missing.
    pub(crate) fn remove_if_damaged(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.blob_path(digest);
        let reading = || StoreError::io("read", &path);
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
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        Ok(is_damaged)
    }
}

/// A blob that is being written. Dropping it unfinished removes the file.
pub(crate) struct IncomingBlob {
    file: NamedTempFile,
    hasher: Hasher,
    written: u64,
    descriptor: Descriptor,
    target: PathBuf,
}

impl IncomingBlob {
    /// Path that the finished blob will have.
    pub(crate) fn path(&self) -> &Path {
        &self.target
    }

    /// Opens the incomplete file for reading, with a position of its own.
    pub(crate) fn reader(&self) -> Result<fs::File, StoreError> {
        self.file
            .reopen()
            .map_err(StoreError::io("open", self.file.path()))
    }

    /// Appends bytes. Returns the number of bytes written so far.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<u64, StoreError> {
        self.written += bytes.len() as u64;
        if self.written > self.descriptor.size {
            return Err(self.wrong_size());
        }
        self.hasher.update(bytes);
        let written = self.file.write_all(bytes);
        written.map_err(StoreError::io("write", self.file.path()))?;
        Ok(self.written)
    }

    /// Checks size and digest, syncs the file and gives it its name.
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
        let failed = || StoreError::io("write", &self.target);
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
            digest: Digest::compute(content),
            media_type: "text/plain".to_owned(),
            size: content.len() as u64,
        }
    }

    fn files_in(path: PathBuf) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn a_stored_blob_is_read_back() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let wanted = descriptor(b"content");
        assert!(!store.has_blob(&wanted));
        store.write_blob(&wanted, b"content").unwrap();
        assert!(store.has_blob(&wanted));
        let read = store.read_small(&wanted.digest).unwrap();
        assert_eq!(read.as_deref(), Some(b"content".as_slice()));
    }

    #[test]
    fn wrong_bytes_are_refused_and_leave_no_file() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let wanted = descriptor(b"content");
        let other = store.write_blob(&wanted, b"CONTENT").unwrap_err();
        assert!(matches!(other, StoreError::WrongDigest { .. }), "{other}");
        for bytes in [b"conten".as_slice(), b"contents"] {
            let error = store.write_blob(&wanted, bytes).unwrap_err();
            assert!(matches!(error, StoreError::WrongSize { .. }), "{error}");
        }
        assert!(!store.has_blob(&wanted));
        assert_eq!(files_in(store.incoming()), 0);
        assert_eq!(files_in(root.path().join("blobs/sha256")), 0);
    }

    #[test]
    fn a_blob_damaged_on_disk_is_found_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let wanted = descriptor(b"content");
        store.write_blob(&wanted, b"content").unwrap();
        assert!(!store.remove_if_damaged(&wanted.digest).unwrap());
        fs::write(store.blob_path(&wanted.digest), b"CONTENT").unwrap();
        assert_eq!(store.read_small(&wanted.digest).unwrap(), None);
        assert!(store.remove_if_damaged(&wanted.digest).unwrap());
        assert!(!store.has_blob(&wanted));
    }
}
