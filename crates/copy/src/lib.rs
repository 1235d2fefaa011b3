//! Copies of files and directories between host and machine, as a tar stream.
//!
//! Both sides use the same two functions, so a copy preserves the same in both directions:
//! contents, permissions (without set-user-ID, set-group-ID and sticky bits), timestamps in
//! seconds, and symlinks. The copies belong to the user who unpacks them. Sockets, pipes and
//! devices are skipped.
//!
//! - [`pack()`] writes a tree as a stream.
//! - [`unpack()`] writes the files of a stream, and nothing outside its destination.
//!
//! ```
//! use container_copy::{UnpackMode, RootName, pack, unpack};
//!
//! let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! std::fs::write(from.path().join("a"), "text")?;
//! let mut stream = Vec::new();
//! pack(&from.path().join("a"), RootName::Dot, &mut stream, &mut |_| ())?;
//! let mode = UnpackMode::Copy { name: Some("a".into()) };
//! unpack(stream.as_slice(), to.path(), &mode, &mut |_| ())?;
//! assert_eq!(std::fs::read_to_string(to.path().join("a"))?, "text");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod pack;
mod unpack;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use pack::{RootName, pack};
pub use unpack::{UnpackMode, unpack};

/// Error of a copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {cause}", shown(.path))]
    File {
        /// Attempted operation, a verb: `read`.
        action: &'static str,
        /// Path of the file on the side that reports the error.
        path: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
    /// The stream is incomplete or not a tar archive.
    #[error("cannot read the tar archive: {0} (decompress a compressed archive first)")]
    Stream(io::Error),
    /// The stream cannot be written.
    #[error("cannot write the tar stream: {0}")]
    Write(io::Error),
    /// The source cannot be copied, or not to this destination.
    #[error("cannot copy: {} {reason}", shown(.path))]
    Refused {
        /// The source or the destination.
        path: PathBuf,
        /// Predicate of `path`: `is a device`.
        reason: &'static str,
    },
    /// Files were skipped because they cannot be read. Each was reported.
    #[error("the copy is incomplete: some files cannot be read")]
    Incomplete,
}

/// Returns a path for a message of one line. Control characters, also line breaks, are in Rust's
/// notation: with them, a name could look like another message.
fn shown(path: &Path) -> String {
    let mut shown = String::new();
    for letter in path.to_string_lossy().chars() {
        if letter.is_control() {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

impl CopyError {
    /// Whether the reader of the stream has gone. It reports its own error, so this one need not be
    /// reported.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, CopyError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CopyError {
        let path = path.to_owned();
        move |cause| CopyError::File {
            action,
            path,
            cause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_line_of_their_message() {
        let error = CopyError::Refused {
            path: PathBuf::from("/a\nError: \u{1b}[2Jä"),
            reason: "is a pipe",
        };
        let message = r"cannot copy: /a\nError: \u{1b}[2Jä is a pipe";
        assert_eq!(error.to_string(), message);
    }
}
