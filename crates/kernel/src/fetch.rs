//! Getting the file of a [`KernelSource`], complete and with the expected digest.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::{
    digest::Sha256Digest,
    source::{KernelSource, Location},
};

/// Timeout for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for a server that sends nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Size of the buffer for hashing a local file.
const BUFFER_SIZE: usize = 1 << 20;

/// A local file, or a downloaded one that is deleted when this is dropped.
#[derive(Debug)]
pub struct FetchedFile(Fetched);

#[derive(Debug)]
enum Fetched {
    Local(PathBuf),
    Temporary(NamedTempFile),
}

impl FetchedFile {
    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        match &self.0 {
            Fetched::Local(path) => path,
            Fetched::Temporary(file) => file.path(),
        }
    }
}

/// Error of getting a kernel's file. No kernel has been added or changed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A URL was given without a digest.
    #[error("{0} needs --digest sha256:…, so that a changed or replaced kernel is refused")]
    MissingDigest(String),
    /// The local file cannot be read.
    #[error("cannot read {path}: {cause}", path = .path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
    /// The server cannot be reached, answered with an error, or broke the connection.
    #[error("cannot fetch {url}: {cause}", cause = innermost(.cause))]
    Download {
        /// The URL.
        url: String,
        /// Error of the HTTP client.
        cause: reqwest::Error,
    },
    /// The server closed the connection too early.
    #[error("cannot fetch {url}: the download was truncated ({received} of {expected} bytes)")]
    Truncated {
        /// The URL.
        url: String,
        /// Length of what was received.
        received: u64,
        /// Length that the server had announced.
        expected: u64,
    },
    /// The download cannot be stored.
    #[error("cannot write a temporary file: {cause}")]
    Store {
        /// Error of the system call.
        cause: io::Error,
    },
    /// The file is not the expected one.
    #[error("{location} has the digest {actual} instead of {expected}; nothing was changed")]
    DigestMismatch {
        /// Path or URL of the file.
        location: String,
        /// Digest given with --digest or in the configuration.
        expected: Sha256Digest,
        /// Computed digest of the file.
        actual: Sha256Digest,
    },
}

/// Gets the file of a source: checks a local file in place, or downloads a URL. `progress` is
/// called with the number of bytes received and, if the server announces it, the total.
///
/// # Errors
/// If the file cannot be read or downloaded completely, or has another digest than requested. A URL
/// without a digest is refused.
pub async fn fetch(
    source: &KernelSource,
    progress: impl FnMut(u64, Option<u64>),
) -> Result<FetchedFile, FetchError> {
    match &source.location {
        Location::File(path) => {
            if let Some(expected) = source.digest {
                let actual = hash_file(path).map_err(|cause| FetchError::Read {
                    path: path.clone(),
                    cause,
                })?;
                check_digest(&source.location, expected, actual)?;
            }
            Ok(FetchedFile(Fetched::Local(path.clone())))
        }
        Location::Url(url) => {
            let expected = source
                .digest
                .ok_or_else(|| FetchError::MissingDigest(url.clone()))?;
            let (file, actual) = download(url, progress).await?;
            check_digest(&source.location, expected, actual)?;
            Ok(FetchedFile(Fetched::Temporary(file)))
        }
    }
}

fn check_digest(
    location: &Location,
    expected: Sha256Digest,
    actual: Sha256Digest,
) -> Result<(), FetchError> {
    if actual == expected {
        return Ok(());
    }
    Err(FetchError::DigestMismatch {
        location: location.to_string(),
        expected,
        actual,
    })
}

fn hash_file(path: &Path) -> io::Result<Sha256Digest> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; BUFFER_SIZE]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Sha256Digest::from_hash(hash)),
            length => hash.update(&buffer[..length]),
        }
    }
}

async fn download(
    url: &str,
    mut progress: impl FnMut(u64, Option<u64>),
) -> Result<(NamedTempFile, Sha256Digest), FetchError> {
    let failed = |cause: reqwest::Error| FetchError::Download {
        url: url.to_owned(),
        cause: cause.without_url(),
    };
    let not_stored = |cause| FetchError::Store { cause };
    // Fails if the process has a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .user_agent(concat!("container/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
        .map_err(failed)?;
    let response = client.get(url).send().await.map_err(failed)?;
    let mut response = response.error_for_status().map_err(failed)?;
    let total = response.content_length();
    let mut file = NamedTempFile::new().map_err(not_stored)?;
    let (mut hash, mut received) = (Sha256::new(), 0);
    while let Some(bytes) = response.chunk().await.map_err(failed)? {
        hash.update(&bytes);
        file.write_all(&bytes).map_err(not_stored)?;
        received += bytes.len() as u64;
        progress(received, total);
    }
    match total {
        Some(expected) if expected != received => Err(FetchError::Truncated {
            url: url.to_owned(),
            received,
            expected,
        }),
        _ => Ok((file, Sha256Digest::from_hash(hash))),
    }
}

/// Returns the text of the innermost cause. The outer ones of reqwest are generic ("error sending
/// request").
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
