//! Origin of a kernel that is to be added.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{
    digest::Sha256Digest,
    name::{InvalidKernelName, KernelName},
};

/// A kernel that is to be added: a file or URL, or a member of a tar archive there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSource {
    pub(crate) location: Location,
    member: Option<String>,
    pub(crate) digest: Option<Sha256Digest>,
}

/// Location of a kernel or of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// An absolute path.
    File(PathBuf),
    /// An http or https URL.
    Url(String),
}

/// Error of parsing the location of a kernel.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The word is a URL with another scheme.
    #[error("{0}: URL not supported: give a path, or a URL with https, http or file")]
    UnsupportedUrl(String),
    /// The path is empty, or the current directory cannot be determined.
    #[error("cannot resolve the path {path:?}: {cause}")]
    Path {
        /// Path as it was entered.
        path: String,
        /// Error of the system call.
        cause: io::Error,
    },
}

impl KernelSource {
    /// Parses the location of a kernel, or of the archive in which it is `member`. With a digest,
    /// the file at the location must have it; a URL needs one.
    ///
    /// # Errors
    /// If the location is neither a path nor a supported URL.
    pub fn parse(
        location: &str,
        member: Option<String>,
        digest: Option<Sha256Digest>,
    ) -> Result<KernelSource, SourceError> {
        Ok(KernelSource {
            location: Location::parse(location)?,
            member,
            digest,
        })
    }

    /// Returns the kernel's path in the archive; `None` when the location is the kernel itself.
    pub fn member(&self) -> Option<&str> {
        self.member.as_deref()
    }

    /// Returns the name that the kernel gets by default: the last component of its path.
    ///
    /// # Errors
    /// If that is not a valid name.
    pub fn kernel_name(&self) -> Result<KernelName, InvalidKernelName> {
        let path = match &self.member {
            Some(member) => member.clone(),
            None => self.location.to_string(),
        };
        path.rsplit('/').next().unwrap_or(&path).parse()
    }
}

impl fmt::Display for KernelSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(member) = &self.member {
            write!(formatter, "{member} in ")?;
        }
        self.location.fmt(formatter)
    }
}

impl Location {
    fn parse(word: &str) -> Result<Location, SourceError> {
        let Some((scheme, _)) = word.split_once("://") else {
            let path = std::path::absolute(Path::new(word));
            return path.map(Location::File).map_err(|cause| SourceError::Path {
                path: word.to_owned(),
                cause,
            });
        };
        let path = || reqwest::Url::parse(word).ok()?.to_file_path().ok();
        match (scheme, path()) {
            ("http" | "https", _) => Ok(Location::Url(word.to_owned())),
            ("file", Some(path)) => Ok(Location::File(path)),
            _ => Err(SourceError::UnsupportedUrl(word.to_owned())),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::File(path) => path.display().fmt(formatter),
            Location::Url(url) => formatter.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_file_or_a_url() {
        let location = |word: &str| Location::parse(word).ok();
        assert_eq!(
            location("file:///k%20a"),
            Some(Location::File("/k a".into()))
        );
        assert_eq!(location("/k"), Some(Location::File("/k".into())));
        let url = "https://example.com/k";
        assert_eq!(location(url), Some(Location::Url(url.to_owned())));
        assert_eq!(location("ftp://example.com/k"), None);
        assert!(matches!(location("k"), Some(Location::File(path)) if path.is_absolute()));
    }
}
