//! Identity of files that are not read.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// A file, as far as it can be identified without reading it. A changed file has another size or
/// time of modification, a replaced one another inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileIdentity {
    path: PathBuf,
    size: u64,
    modified: (i64, i64),
    inode: u64,
}

impl FileIdentity {
    /// Reads the identity of the file at `path`.
    pub(crate) fn read(path: &Path) -> io::Result<FileIdentity> {
        Ok(FileIdentity::new(path, &fs::metadata(path)?))
    }

    /// Reads the identity of an open file, which was at `path`.
    pub(crate) fn of_open(path: &Path, file: &File) -> io::Result<FileIdentity> {
        Ok(FileIdentity::new(path, &file.metadata()?))
    }

    fn new(path: &Path, about: &Metadata) -> FileIdentity {
        FileIdentity {
            path: path.to_owned(),
            size: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
            inode: about.ino(),
        }
    }

    /// Returns whether the file is still this one.
    pub(crate) fn is_current(&self) -> bool {
        FileIdentity::read(&self.path).is_ok_and(|current| current == *self)
    }
}
