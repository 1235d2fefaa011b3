//! Files that are replaced atomically: after a crash they have their old or their new content.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::bundle_error::BundleError;

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, BundleError> {
    let text = fs::read(path).map_err(BundleError::io("read", path))?;
    serde_json::from_slice(&text).map_err(BundleError::malformed(path))
}

/// Replaces a JSON file.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), BundleError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(BundleError::malformed(path))?;
    text.push(b'\n');
    replace(path, &text)
}

/// Creates a file, unless it exists, and returns its content. All who create it at the same time
/// get the same content.
pub(crate) fn create_or_read(path: &Path, content: &str) -> Result<String, BundleError> {
    let create = || -> io::Result<bool> {
        let mut file = tempfile::NamedTempFile::new_in(parent(path))?;
        file.write_all(content.as_bytes())?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    };
    if create().map_err(BundleError::io("create", path))? {
        sync_parent(path)?;
        return Ok(content.to_owned());
    }
    fs::read_to_string(path).map_err(BundleError::io("read", path))
}

/// Reads a text file; `None` if it does not exist.
pub(crate) fn read_if_exists(path: &Path) -> Result<Option<String>, BundleError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(BundleError::io("read", path)(cause)),
    }
}

/// Replaces a file, and returns after the content is on the disk.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), BundleError> {
    let written = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(parent(path))?;
        file.write_all(content)?;
        // Before the rename: otherwise the new name could lead to an empty file after a crash.
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    written().map_err(BundleError::io("write", path))?;
    sync_parent(path)
}

/// Returns after a rename to `path` is on the disk.
pub(crate) fn sync_parent(path: &Path) -> Result<(), BundleError> {
    let directory = parent(path);
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(BundleError::io("write", directory))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}
