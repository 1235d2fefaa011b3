//! The file of a Unix socket that a program wants to listen on.

use std::{fs, io, os::unix::fs::FileTypeExt, path::Path};

use tokio::net::UnixStream;

/// Error of making the path of a socket free.
#[derive(Debug, thiserror::Error)]
pub enum OccupiedError {
    /// A file of another type has the path.
    #[error("a file that is not a socket exists there")]
    NotASocket,
    /// A program listens on the path.
    #[error("another program listens there")]
    InUse,
    /// The directory of the path is missing.
    #[error("its directory does not exist")]
    NoDirectory,
    /// The path cannot be looked at, or the file not removed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Returns whether a socket has the path, whose directory exists.
///
/// # Errors
/// [`OccupiedError`], except for [`OccupiedError::InUse`].
pub fn exists(path: &Path) -> Result<bool, OccupiedError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(true),
        Ok(_) => Err(OccupiedError::NotASocket),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match path.parent().map(fs::metadata) {
                Some(Ok(directory)) if directory.is_dir() => Ok(false),
                _ => Err(OccupiedError::NoDirectory),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes a socket on which no program listens any more.
///
/// # Errors
/// [`OccupiedError`], if the path is not free.
pub async fn remove_stale(path: &Path) -> Result<(), OccupiedError> {
    if !exists(path)? {
        return Ok(());
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(fs::remove_file(path)?)
        }
        // `WouldBlock`: its queue of connections is full.
        Ok(_) => Err(OccupiedError::InUse),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(OccupiedError::InUse),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn only_a_socket_without_a_listener_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        remove_stale(&path).await.unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let error = remove_stale(&path).await.unwrap_err();
        assert!(matches!(error, OccupiedError::InUse));
        drop(listener);
        remove_stale(&path).await.unwrap();
        assert!(!path.exists());
        fs::write(&path, "text").unwrap();
        let error = remove_stale(&path).await.unwrap_err();
        assert!(matches!(error, OccupiedError::NotASocket));
        assert_eq!(fs::read(&path).unwrap(), b"text");
        let error = remove_stale(&path.join("b.sock")).await.unwrap_err();
        assert!(!matches!(error, OccupiedError::InUse), "{error}");
        let missing = directory.path().join("none/b.sock");
        let error = remove_stale(&missing).await.unwrap_err();
        assert!(matches!(error, OccupiedError::NoDirectory));
    }
}
