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
