//! Unix sockets that are forwarded between a machine and its host.

use std::{fmt, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};

/// Maximum length of a socket's path in bytes, without the terminating NUL (unix(7), `sun_path`).
const MAX_PATH: usize = 107;

/// Absolute path of a Unix socket, which any program can connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketPath(String);

/// A text is not the path of a socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid socket path {path:?}: {reason}")]
pub struct InvalidSocketPath {
    path: String,
    reason: String,
}

impl SocketPath {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Returns the name of the file.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl FromStr for SocketPath {
    type Err = InvalidSocketPath;

    fn from_str(path: &str) -> Result<SocketPath, InvalidSocketPath> {
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let reason = match path.strip_prefix('/') {
            None => "it is not absolute".to_owned(),
            Some(_) if path.contains([':', ',']) || path.contains(char::is_control) => {
                "it contains a colon, a comma or a control character".to_owned()
            }
            Some(parts) if !parts.split('/').all(is_plain) => {
                "it contains an empty part, `.` or `..`".to_owned()
            }
            Some(_) if path.len() > MAX_PATH => {
                format!("it has {} bytes, and Linux allows {MAX_PATH}", path.len())
            }
            Some(_) => return Ok(SocketPath(path.to_owned())),
        };
        Err(InvalidSocketPath {
            path: path.to_owned(),
            reason,
        })
    }
}

impl TryFrom<String> for SocketPath {
    type Error = InvalidSocketPath;

    fn try_from(path: String) -> Result<SocketPath, InvalidSocketPath> {
        path.parse()
    }
}

impl From<SocketPath> for String {
    fn from(path: SocketPath) -> String {
        path.0
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The side on which the program listens that a forwarded socket leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SocketSource {
    /// A program in the machine; programs on the host connect.
    Machine,
    /// A program on the host; programs in the machine connect.
    Host,
}

/// A socket that is forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketForward {
    /// Side of the program that is connected to.
    pub source: SocketSource,
    /// Path in the machine.
    pub machine: SocketPath,
    /// Path on the host.
    pub host: SocketPath,
}

/// A socket that is not forwarded, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketProblem {
    /// Path at which nothing listens, though it should.
    pub path: SocketPath,
    /// Sentence without a capital letter and a full stop.
    pub problem: String,
}

/// Answer on a stream of [`Port::Socket`](crate::Port::Socket).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SocketReply {
    /// What follows are the connection's bytes.
    Connected,
    /// Nothing follows; the error of connect(2).
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_sockets_are_absolute_and_fit_into_an_address() {
        let longest = format!("/{}", "p".repeat(MAX_PATH - 1));
        for path in ["/run/docker.sock", "/a b/ü", longest.as_str()] {
            assert_eq!(path.parse::<SocketPath>().unwrap().as_str(), path);
        }
        let path: SocketPath = "/run/docker.sock".parse().unwrap();
        assert_eq!(path.file_name(), "docker.sock");
        let longer = format!("{longest}p");
        for (path, reason) in [
            ("", "not absolute"),
            ("run/a", "not absolute"),
            ("/", "empty part"),
            ("/run/", "empty part"),
            ("/run//a", "empty part"),
            ("/run/../a", "`..`"),
            ("/a:b", "colon"),
            ("/a,b", "comma"),
            ("/a\nb", "control"),
            (longer.as_str(), "has 108 bytes, and Linux allows 107"),
        ] {
            let error = path.parse::<SocketPath>().unwrap_err().to_string();
            assert!(error.contains(reason), "{path}: {error}");
        }
    }
}
