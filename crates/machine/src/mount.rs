//! Directories of the host that a machine mounts besides the home.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Maximum length of a path in bytes, without the terminating NUL (Linux, `PATH_MAX`).
const MAX_PATH: usize = 4095;

/// Absolute path of a directory, without `.`, `..` and a slash at the end. It is not the root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountPath(String);

/// A text is not the path of a mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid path {path:?}: {reason}")]
pub struct InvalidMountPath {
    path: String,
    reason: &'static str,
}

impl MountPath {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Whether this path is `directory`, or below it.
    pub fn is_in(&self, directory: impl AsRef<Path>) -> bool {
        self.as_path().starts_with(directory)
    }
}

impl FromStr for MountPath {
    type Err = InvalidMountPath;

    fn from_str(text: &str) -> Result<MountPath, InvalidMountPath> {
        let path = Path::new(text);
        let invalid = |reason| {
            Err(InvalidMountPath {
                path: text.to_owned(),
                reason,
            })
        };
        if !path.is_absolute() {
            return invalid("it is not absolute");
        }
        if text.contains([':', ',']) || text.contains(char::is_control) {
            return invalid("it contains a colon, a comma or a control character");
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return invalid("it contains `..`");
        }
        if text.len() > MAX_PATH {
            return invalid("it is too long");
        }
        // Without `.`, and slashes that mean nothing.
        let normalized: PathBuf = path.components().collect();
        match normalized.into_os_string().into_string() {
            Ok(root) if root == "/" => invalid("it is the root directory"),
            Ok(path) => Ok(MountPath(path)),
            Err(_) => invalid("it is not in UTF-8"),
        }
    }
}

impl TryFrom<String> for MountPath {
    type Error = InvalidMountPath;

    fn try_from(path: String) -> Result<MountPath, InvalidMountPath> {
        path.parse()
    }
}

impl From<MountPath> for String {
    fn from(path: MountPath) -> String {
        path.0
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Access of a machine to a mounted directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountMode {
    /// The machine can change the directory.
    #[default]
    Rw,
    /// The machine can only read it.
    Ro,
}

/// A directory of the host that a machine mounts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// Access of the machine.
    pub mode: MountMode,
    /// Path on the host, after following symbolic links.
    pub source: MountPath,
    /// Path in the machine.
    pub target: MountPath,
}

/// A mount as the user writes it: `SOURCE[:TARGET[:MODE]]`. The source may be relative, and the
/// target is the source's absolute path if absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedMount {
    source: PathBuf,
    target: Option<MountPath>,
    mode: MountMode,
}

/// A text is not a mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid mount {word:?}: {reason} (the format is SOURCE[:TARGET[:ro|rw]], for example . or \
     /data:/srv/data:ro)"
)]
pub struct InvalidMount {
    word: String,
    reason: String,
}

impl RequestedMount {
    /// Returns the mount with both paths absolute. `current` is the directory that a relative
    /// source is relative to.
    ///
    /// # Errors
    /// If the absolute path is not one that can be mounted.
    pub fn resolve(&self, current: &Path) -> Result<Mount, InvalidMount> {
        let source = absolute(&self.source, current).map_err(|error| InvalidMount {
            word: self.source.display().to_string(),
            reason: error.to_string(),
        })?;
        Ok(Mount {
            mode: self.mode,
            target: self.target.clone().unwrap_or_else(|| source.clone()),
            source,
        })
    }
}

/// Returns an absolute path without `..`. Where `..` leads to depends on symbolic links, so that
/// such a path is resolved with them.
pub(crate) fn absolute(path: &Path, current: &Path) -> Result<MountPath, InvalidMountPath> {
    let joined = current.join(path);
    let has_parent = joined.components().any(|part| part == Component::ParentDir);
    let resolved = has_parent.then(|| joined.canonicalize().ok()).flatten();
    let path = resolved.unwrap_or(joined);
    match path.to_str() {
        Some(path) => path.parse(),
        None => Err(InvalidMountPath {
            path: path.display().to_string(),
            reason: "it is not in UTF-8",
        }),
    }
}

impl FromStr for RequestedMount {
    type Err = InvalidMount;

    fn from_str(word: &str) -> Result<RequestedMount, InvalidMount> {
        let invalid = |reason: &str| InvalidMount {
            word: word.to_owned(),
            reason: reason.to_owned(),
        };
        let mut parts = word.split(':');
        let source = parts.next().unwrap_or_default();
        if source.is_empty() {
            return Err(invalid("it has no source"));
        }
        let target = parts.next().map(str::parse::<MountPath>).transpose();
        let target = target.map_err(|error| invalid(&format!("target: {error}")))?;
        let mode = match parts.next() {
            None | Some("rw") => MountMode::Rw,
            Some("ro") => MountMode::Ro,
            Some(_) => return Err(invalid("the mode is neither ro nor rw")),
        };
        if parts.next().is_some() {
            return Err(invalid("it has more than three parts"));
        }
        Ok(RequestedMount {
            source: source.into(),
            target,
            mode,
        })
    }
}

impl MountMode {
    /// Whether the machine can only read the directory.
    pub fn is_read_only(self) -> bool {
        self == MountMode::Ro
    }
}

impl fmt::Display for MountMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            MountMode::Rw => "rw",
            MountMode::Ro => "ro",
        })
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.source, self.target, self.mode)
    }
}

/// Path of a mount in the machine as the user writes it, which may be relative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedTarget(PathBuf);

impl RequestedTarget {
    /// Returns the absolute path. `current` is the directory that a relative one is relative to.
    ///
    /// # Errors
    /// If the absolute path is not that of a mount.
    pub fn resolve(&self, current: &Path) -> Result<MountPath, InvalidMountPath> {
        absolute(&self.0, current)
    }
}

impl From<&str> for RequestedTarget {
    fn from(path: &str) -> RequestedTarget {
        RequestedTarget(path.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(word: &str, current: &str) -> Result<String, String> {
        let requested = word.parse::<RequestedMount>();
        let mount = requested.and_then(|it| it.resolve(Path::new(current)));
        mount.map(|it| it.to_string()).map_err(|it| it.to_string())
    }

    #[test]
    fn mounts_are_parsed() {
        for (word, mount) in [
            (".", "/w/p:/w/p:rw"),
            ("./a/", "/w/p/a:/w/p/a:rw"),
            ("a:/b", "/w/p/a:/b:rw"),
            ("/a//b:/c/./d/:ro", "/a/b:/c/d:ro"),
            ("/a b:/c:rw", "/a b:/c:rw"),
        ] {
            assert_eq!(resolved(word, "/w/p").as_deref(), Ok(mount), "{word}");
        }
        for (word, reason) in [
            ("", "no source"),
            (":/a", "no source"),
            ("/a:b", "target: invalid path \"b\": it is not absolute"),
            ("/a:", "not absolute"),
            ("/a:/", "root directory"),
            ("/a:/b/../c", "`..`"),
            ("/a:/b:rx", "neither ro nor rw"),
            ("/a:/b:ro:x", "more than three"),
            ("/", "root directory"),
            ("/a,b", "comma"),
            ("/a\nb", "control"),
        ] {
            let error = resolved(word, "/w").unwrap_err();
            assert!(error.contains(reason), "{word}: {error}");
            assert!(error.contains("SOURCE[:TARGET"), "{error}");
        }
    }

    #[test]
    fn a_path_with_a_parent_is_resolved() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("other/deep")).unwrap();
        std::os::unix::fs::symlink("other/deep", root.join("link")).unwrap();
        let found = absolute(Path::new("link/.."), &root).unwrap();
        assert_eq!(found.as_path(), root.join("other"));
        assert!(absolute(Path::new("none/.."), &root).is_err());
    }

    #[test]
    fn mounts_are_checked_when_they_are_read() {
        let mount = Mount {
            mode: MountMode::Ro,
            source: "/a".parse().unwrap(),
            target: "/b".parse().unwrap(),
        };
        let json = serde_json::to_string(&mount).unwrap();
        assert_eq!(json, r#"{"mode":"ro","source":"/a","target":"/b"}"#);
        assert_eq!(serde_json::from_str::<Mount>(&json).unwrap(), mount);
        let relative = json.replace("/b", "b");
        assert!(serde_json::from_str::<Mount>(&relative).is_err());
    }
}
