//! Forwarded sockets of a machine.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use container_machine::{Directories, ForwardedSocket};
use container_protocol::{
    InvalidSocketPath, SocketForward, SocketPath, SocketProblem, SocketSource,
    socket_file::{self, OccupiedError},
};
use container_runtime::has_refused_links;

/// Maximum number of forwarded sockets of a machine.
const MAX_SOCKETS: usize = 128;

/// The forwarded sockets of a request are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("cannot forward {count} sockets: the limit is {MAX_SOCKETS}")]
    TooMany { count: usize },
    #[error(
        "cannot forward two sockets at {path} on the host: choose another path for one of them"
    )]
    HostTwice { path: SocketPath },
    #[error(
        "cannot forward two sockets at {path} in the machine: choose another path for one of them"
    )]
    MachineTwice { path: SocketPath },
    #[error(
        "cannot forward {socket}: {cause} (choose the path on the host: MACHINE_PATH:HOST_PATH)"
    )]
    DefaultPath {
        socket: ForwardedSocket,
        cause: InvalidSocketPath,
    },
    #[error("cannot forward a socket at {path}: it is in a directory of this program")]
    Own { path: SocketPath },
    #[error(
        "cannot forward a socket at {path} on the host: symbolic links in the path are not \
         followed (name the path without them: {})", .resolved.display()
    )]
    Links { path: SocketPath, resolved: PathBuf },
    #[error(
        "cannot forward a socket at {path} on the host: a symbolic link in the path leads to \
         nothing"
    )]
    DanglingLink { path: SocketPath },
    #[error("cannot forward a socket at {path} on the host: {cause}")]
    Host {
        path: SocketPath,
        cause: OccupiedError,
    },
}

/// Refuses forwardings that can never work: two at one path, those in directories of this program,
/// and those at a path of the host that has another file or no directory.
pub(crate) fn check_sockets(
    sockets: &[ForwardedSocket],
    directories: &Directories,
    runtime_directory: &Path,
) -> Result<(), ForwardError> {
    if sockets.len() > MAX_SOCKETS {
        return Err(ForwardError::TooMany {
            count: sockets.len(),
        });
    }
    let (mut on_host, mut in_machine) = (HashSet::new(), HashSet::new());
    for socket in sockets {
        let forward = socket.resolve(runtime_directory);
        let forward = forward.map_err(|cause| ForwardError::DefaultPath {
            socket: socket.clone(),
            cause,
        })?;
        let SocketForward {
            source,
            machine,
            host,
        } = forward;
        if !matches!(socket, ForwardedSocket::OfMachine { host: None, .. }) {
            check_host_path(&host, source, directories)?;
        }
        // Several paths may lead to one program, but only one program listens at a path.
        if source == SocketSource::Machine && !on_host.insert(host.clone()) {
            return Err(ForwardError::HostTwice { path: host });
        }
        if source == SocketSource::Host && !in_machine.insert(machine.clone()) {
            return Err(ForwardError::MachineTwice { path: machine });
        }
    }
    Ok(())
}

fn check_host_path(
    path: &SocketPath,
    source: SocketSource,
    directories: &Directories,
) -> Result<(), ForwardError> {
    if is_own(path.as_path(), directories) {
        return Err(ForwardError::Own { path: path.clone() });
    }
    if has_refused_links(path.as_path()) {
        let (path, resolved) = (path.clone(), resolve_links(path.as_path()));
        return Err(if has_refused_links(&resolved) {
            ForwardError::DanglingLink { path }
        } else {
            ForwardError::Links { path, resolved }
        });
    }
    match (socket_file::exists(path.as_path()), source) {
        (Ok(_), _) => Ok(()),
        // The program that listens there may create it later.
        (Err(OccupiedError::NoDirectory), SocketSource::Host) => Ok(()),
        (Err(cause), _) => Err(ForwardError::Host {
            path: path.clone(),
            cause,
        }),
    }
}

/// Returns whether a path, or what it leads to, is in a directory of this program.
fn is_own(path: &Path, directories: &Directories) -> bool {
    let resolved = resolve_links(path);
    let own = [&directories.data, &directories.config, &directories.runtime];
    own.into_iter().any(|directory| {
        path.starts_with(directory) || resolved.starts_with(resolve_links(directory))
    })
}

/// Returns the path after following symbolic links, as far as it exists.
fn resolve_links(path: &Path) -> PathBuf {
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(resolved), _, _) => resolved,
        (Err(_), Some(parent), Some(name)) => resolve_links(parent).join(name),
        (Err(_), _, _) => path.to_owned(),
    }
}

/// Returns the forwardings with both paths, and a sentence for each that has none.
pub(crate) fn resolve_sockets(
    sockets: &[ForwardedSocket],
    runtime_directory: &Path,
) -> (Vec<SocketForward>, Vec<String>) {
    let (mut forwards, mut problems) = (Vec::new(), Vec::new());
    for socket in sockets {
        match socket.resolve(runtime_directory) {
            Ok(forward) => forwards.push(forward),
            Err(error) => problems.push(format!("socket {socket} is not forwarded: {error}")),
        }
    }
    (forwards, problems)
}

/// Returns a sentence for each forwarded socket that cannot be reached.
pub(crate) fn socket_problems(problems: &[SocketProblem]) -> Vec<String> {
    let sentence =
        |it: &SocketProblem| format!("socket {} cannot be used: {}", it.path, it.problem);
    problems.iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    #[test]
    fn sockets_that_can_never_work_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let at = |below: &str| root.path().join(below).display().to_string();
        let directories = Directories {
            data: at("data").into(),
            config: at("config").into(),
            runtime: at("runtime").into(),
        };
        fs::create_dir(&directories.data).unwrap();
        fs::create_dir(&directories.runtime).unwrap();
        let _service = UnixListener::bind(at("runtime/service.sock")).unwrap();
        symlink(at("runtime/service.sock"), at("link.sock")).unwrap();
        symlink(at("data"), at("directory")).unwrap();
        let _other = UnixListener::bind(at("other.sock")).unwrap();
        fs::create_dir(at("real")).unwrap();
        symlink(at("real"), at("linked")).unwrap();
        symlink(at("none"), at("dangling")).unwrap();
        fs::write(at("file"), "").unwrap();
        let machine = directories.runtime.join("machines/dev");
        let check = |words: &[String]| {
            let sockets: Vec<_> = words.iter().map(|word| word.parse().unwrap()).collect();
            let checked = check_sockets(&sockets, &directories, &machine);
            checked.map_err(|error| error.to_string())
        };
        let allowed = [
            "/run/docker.sock".to_owned(),
            format!("/run/docker.sock:{}", at("new.sock")),
            format!("/run/docker.sock:{}", at("other.sock")),
            format!("host:{}:/run/a.sock", at("other.sock")),
            format!("host:{}:/run/b.sock", at("later/other.sock")),
        ];
        assert_eq!(check(&allowed), Ok(()));
        for (words, reason) in [
            (
                vec![format!("/a:{}", at("none/a.sock"))],
                "directory does not exist",
            ),
            (vec![format!("/a:{}", at("file"))], "not a socket"),
            (vec![format!("host:{}:/a", at("file"))], "not a socket"),
            (vec![format!("/a:{}", at("data/a.sock"))], "of this program"),
            (
                vec![format!("/a:{}", at("directory/a.sock"))],
                "of this program",
            ),
            (
                vec![format!("host:{}:/a", at("runtime/service.sock"))],
                "of this program",
            ),
            (
                vec![format!("host:{}:/a", at("link.sock"))],
                "of this program",
            ),
            (
                vec![format!("host:{}:/a", at("linked/a.sock"))],
                "real/a.sock)",
            ),
            (vec![format!("/a:{}", at("linked/a.sock"))], "real/a.sock)"),
            (vec![format!("/a:{}", at("dangling"))], "leads to nothing"),
            (
                vec!["/a/x.sock".to_owned(), "/b/x.sock".to_owned()],
                "on the host",
            ),
            (
                vec![
                    format!("host:{}:/a", at("other.sock")),
                    format!("host:{}:/a", at("new.sock")),
                ],
                "in the machine",
            ),
        ] {
            let error = check(&words).unwrap_err();
            assert!(error.contains(reason), "{words:?}: {error}");
        }
        let many: Vec<_> = (0..=MAX_SOCKETS)
            .map(|n| format!("/run/{n}.sock"))
            .collect();
        assert!(check(&many).unwrap_err().contains("limit"));
    }
}
