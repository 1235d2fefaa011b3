//! Files and directories as a tar stream, for copies between host and machine.
//!
//! Both sides use the same two functions, [`pack`] and [`unpack`], so what a copy keeps is the same
//! both ways: contents, modes (without the bits that lend rights), times in seconds, symlinks. What
//! is copied belongs to whoever unpacks it.
//!
//! ```
//! use container_archive::{Arrival, Root, pack, unpack};
//!
//! let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! std::fs::write(from.path().join("a"), "text")?;
//! let mut stream = Vec::new();
//! pack(&from.path().join("a"), Root::Itself, &mut stream, &mut |_| ())?;
//! let arrival = Arrival::Copy { name: Some("a".into()) };
//! unpack(stream.as_slice(), to.path(), &arrival, &mut |_| ())?;
//! assert_eq!(std::fs::read_to_string(to.path().join("a"))?, "text");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod pack;
mod unpack;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use pack::{Root, pack};
pub use unpack::{Arrival, unpack};

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file could not be read or written.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The stream broke off, or is no tar stream.
    #[error(
        "what comes is no tar archive, or not all of one ({0}); a compressed one must be unpacked first"
    )]
    Stream(#[source] io::Error),
    /// The stream could not be written.
    #[error("the tar stream cannot be written: {0}")]
    Write(#[source] io::Error),
    /// The source cannot be copied, or the destination cannot take it.
    #[error("{path}: {reason}")]
    Refused {
        /// The one that is meant.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// Some files are missing in the copy; each was told.
    #[error("the copy is not complete")]
    Incomplete,
}

impl ArchiveError {
    /// Whether nobody reads the stream any more, which is for its reader to know.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, ArchiveError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
        let path = path.to_owned();
        move |source| ArchiveError::File {
            doing,
            path,
            source,
        }
    }
}
