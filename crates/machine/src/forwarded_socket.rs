//! Requested forwardings of Unix sockets.

use std::{fmt, path::Path, str::FromStr};

use container_protocol::{InvalidSocketPath, SocketForward, SocketPath, SocketSource};
use serde::{Deserialize, Serialize};

/// First part of a forwarding from the machine to the host.
const HOST: &str = "host:";

/// Directory of the sockets whose path on the host is not chosen, in a machine's runtime directory.
const DIRECTORY: &str = "sockets";

/// A requested forwarding of a socket, written `MACHINE_PATH[:HOST_PATH]` for a socket of the
/// machine and `host:HOST_PATH:MACHINE_PATH` for one of the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ForwardedSocket {
    /// A socket of the machine.
    OfMachine {
        /// Path in the machine.
        machine: SocketPath,
        /// Path on the host; in the machine's runtime directory if absent.
        host: Option<SocketPath>,
    },
    /// A socket of the host.
    OfHost {
        /// Path on the host.
        host: SocketPath,
        /// Path in the machine.
        machine: SocketPath,
    },
}

/// A text is not a forwarding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid forwarded socket {word:?}: {reason} (the format is MACHINE_PATH[:HOST_PATH], for \
     example /run/docker.sock, or host:HOST_PATH:MACHINE_PATH for a socket of the host)"
)]
pub struct InvalidForwardedSocket {
    word: String,
    reason: String,
}

impl ForwardedSocket {
    /// Returns the forwarding with both paths. `runtime_directory` is the machine's.
    ///
    /// # Errors
    /// If the path in the runtime directory is not that of a socket, for example because it is too
    /// long.
    pub fn resolve(&self, runtime_directory: &Path) -> Result<SocketForward, InvalidSocketPath> {
        let (source, machine, host) = match self {
            ForwardedSocket::OfMachine { machine, host } => {
                let host = match host {
                    Some(host) => host.clone(),
                    None => default_path(machine, runtime_directory)?,
                };
                (SocketSource::Machine, machine, host)
            }
            ForwardedSocket::OfHost { host, machine } => {
                (SocketSource::Host, machine, host.clone())
            }
        };
        Ok(SocketForward {
            source,
            machine: machine.clone(),
            host,
        })
    }

    /// Leaves out a path on the host that is the default one, which depends on the machine's name.
    #[must_use]
    pub fn without_default_path(self, runtime_directory: &Path) -> ForwardedSocket {
        match self {
            ForwardedSocket::OfMachine { machine, host } => {
                let default = default_path(&machine, runtime_directory).ok();
                ForwardedSocket::OfMachine {
                    host: host.filter(|host| Some(host) != default.as_ref()),
                    machine,
                }
            }
            of_host @ ForwardedSocket::OfHost { .. } => of_host,
        }
    }
}

impl From<SocketForward> for ForwardedSocket {
    fn from(forward: SocketForward) -> ForwardedSocket {
        let SocketForward {
            source,
            machine,
            host,
        } = forward;
        match source {
            SocketSource::Machine => ForwardedSocket::OfMachine {
                machine,
                host: Some(host),
            },
            SocketSource::Host => ForwardedSocket::OfHost { host, machine },
        }
    }
}

/// Returns the path on the host of a machine's socket for which none is chosen.
fn default_path(
    machine: &SocketPath,
    runtime_directory: &Path,
) -> Result<SocketPath, InvalidSocketPath> {
    let path = runtime_directory.join(DIRECTORY).join(machine.file_name());
    path.to_string_lossy().parse()
}

impl FromStr for ForwardedSocket {
    type Err = InvalidForwardedSocket;

    fn from_str(word: &str) -> Result<ForwardedSocket, InvalidForwardedSocket> {
        let invalid = |reason: String| InvalidForwardedSocket {
            word: word.to_owned(),
            reason,
        };
        let path = |part: &str| {
            let path = part.parse::<SocketPath>();
            path.map_err(|error| invalid(error.to_string()))
        };
        match word.strip_prefix(HOST) {
            Some(paths) => {
                let (host, machine) = paths
                    .split_once(':')
                    .ok_or_else(|| invalid("two paths are required after `host:`".to_owned()))?;
                Ok(ForwardedSocket::OfHost {
                    host: path(host)?,
                    machine: path(machine)?,
                })
            }
            None => {
                let (machine, host) = match word.split_once(':') {
                    Some((machine, host)) => (machine, Some(host)),
                    None => (word, None),
                };
                Ok(ForwardedSocket::OfMachine {
                    machine: path(machine)?,
                    host: host.map(path).transpose()?,
                })
            }
        }
    }
}

impl fmt::Display for ForwardedSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardedSocket::OfMachine {
                machine,
                host: None,
            } => machine.fmt(formatter),
            ForwardedSocket::OfMachine {
                machine,
                host: Some(host),
            } => write!(formatter, "{machine}:{host}"),
            ForwardedSocket::OfHost { host, machine } => {
                write!(formatter, "{HOST}{host}:{machine}")
            }
        }
    }
}

impl TryFrom<String> for ForwardedSocket {
    type Error = InvalidForwardedSocket;

    fn try_from(word: String) -> Result<ForwardedSocket, InvalidForwardedSocket> {
        word.parse()
    }
}

impl From<ForwardedSocket> for String {
    fn from(socket: ForwardedSocket) -> String {
        socket.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(word: &str) -> ForwardedSocket {
        word.parse().unwrap()
    }

    #[test]
    fn forwardings_are_parsed_and_written() {
        for word in [
            "/run/docker.sock",
            "/run/docker.sock:/home/ann/docker.sock",
            "host:/run/user/1000/bus:/run/host-bus",
        ] {
            assert_eq!(parsed(word).to_string(), word);
        }
        for (word, reason) in [
            ("", "not absolute"),
            ("docker.sock", "not absolute"),
            ("/a:b", "not absolute"),
            ("/a:", "not absolute"),
            ("/a:/b:/c", "colon"),
            ("host:/a", "two paths"),
            ("host:/a:", "not absolute"),
            ("guest:/a:/b", "not absolute"),
        ] {
            let error = word.parse::<ForwardedSocket>().unwrap_err().to_string();
            assert!(
                error.contains(reason) && error.contains("MACHINE_PATH"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_default_path_is_in_the_runtime_directory() {
        let directory = Path::new("/run/user/1000/container/machines/dev");
        let default = parsed("/run/docker.sock");
        let resolved = default.resolve(directory).unwrap();
        let host = "/run/user/1000/container/machines/dev/sockets/docker.sock";
        assert_eq!(resolved.host.as_str(), host);
        let shown = ForwardedSocket::from(resolved);
        assert_eq!(shown.to_string(), format!("/run/docker.sock:{host}"));
        assert_eq!(shown.without_default_path(directory), default);
        for other in ["/a.sock:/b.sock", "host:/a.sock:/b.sock"] {
            let forward = parsed(other).resolve(directory).unwrap();
            assert_eq!(ForwardedSocket::from(forward), parsed(other));
            assert_eq!(parsed(other).without_default_path(directory), parsed(other));
        }
        let long = Path::new("/long").join("l".repeat(100));
        let error = default.resolve(&long).unwrap_err().to_string();
        assert!(error.contains("Linux allows 107"), "{error}");
    }
}
