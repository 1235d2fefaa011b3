//! The forwarded Unix sockets of a machine, and their files on the host.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use container_machine::{create_private, create_runtime_directory};
use container_protocol::{
    SocketForward, SocketPath, SocketProblem, SocketSource, local,
    socket_file::{self, OccupiedError},
};
use tokio::net::UnixListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{file_identity::FileIdentity, host_socket};

/// The forwarded sockets of a machine.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// The runtime directory, in which directories of sockets are created.
    directory: PathBuf,
    current: Mutex<Current>,
    /// Held while the current ones become the wanted ones.
    changing: tokio::sync::Mutex<()>,
    /// Held while the agent is asked, which must get the last list last.
    pub asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Current {
    wanted: Vec<SocketForward>,
    open: HashMap<SocketForward, Open>,
    /// Problems on the host.
    problems: Vec<SocketProblem>,
}

/// A socket that is forwarded until this is dropped.
#[derive(Debug)]
struct Open {
    /// Cancelled when the socket is not forwarded any more.
    ended: CancellationToken,
    _end: DropGuard,
    /// Absent for a socket of the host.
    file: Option<Arc<SocketFile>>,
}

impl Open {
    fn new(file: Option<Arc<SocketFile>>) -> Open {
        let ended = CancellationToken::new();
        let _end = ended.clone().drop_guard();
        Open { ended, _end, file }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

/// The file of a socket on the host.
#[derive(Debug)]
pub(crate) struct SocketFile {
    pub path: SocketPath,
    /// The runtime directory, if the socket is in it.
    runtime_directory: Option<PathBuf>,
    /// The file that was created last.
    created: Mutex<Option<Created>>,
}

/// A socket that was created.
#[derive(Debug)]
struct Created {
    /// Path through `directory`.
    path: PathBuf,
    identity: FileIdentity,
    _directory: File,
}

impl SocketFile {
    /// Creates the socket, and its directory if that is the program's own.
    pub(crate) async fn listen(&self) -> Result<UnixListener, OccupiedError> {
        let directory = self.open_directory().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OccupiedError::NoDirectory,
            _ => error.into(),
        })?;
        let name = self.path.as_path().file_name().unwrap_or_default();
        // A machine that shares a directory above may rename it, or put a link in its place.
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
        let path = path.join(name);
        socket_file::remove_stale(&path).await?;
        let listener = local::listen(&path)?;
        *lock(&self.created) = FileIdentity::read(&path).ok().map(|identity| Created {
            path,
            identity,
            _directory: directory,
        });
        Ok(listener)
    }

    fn open_directory(&self) -> io::Result<File> {
        let path = self.path.as_path();
        let (Some(own), Some(directory)) = (&self.runtime_directory, path.parent()) else {
            return host_socket::open_directory(path);
        };
        let created = create_runtime_directory(own).and_then(|()| create_private(directory));
        created.map_err(io::Error::other)?;
        File::open(directory)
    }

    /// Removes the file, unless it was replaced.
    fn remove(&self) {
        let created = lock(&self.created).take();
        if let Some(created) = created.filter(|created| created.identity.is_current())
            && let Err(error) = fs::remove_file(&created.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path);
        }
    }
}

impl Sockets {
    /// Returns the sockets of a machine that is about to boot.
    pub(crate) fn new(directory: &Path, wanted: Vec<SocketForward>) -> Sockets {
        Sockets {
            directory: directory.to_owned(),
            current: Mutex::new(Current {
                wanted,
                ..Current::default()
            }),
            changing: tokio::sync::Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the problems on the host.
    pub(crate) fn problems(&self) -> Vec<SocketProblem> {
        lock(&self.current).problems.clone()
    }

    /// Sets which sockets are to be forwarded.
    pub(crate) fn set_wanted(&self, wanted: Vec<SocketForward>) {
        lock(&self.current).wanted = wanted;
    }

    /// Opens the wanted sockets, and closes the others. Calls `serve` for each on which the host
    /// listens, which is to be served until the token is cancelled.
    pub(crate) async fn open_wanted(
        &self,
        serve: impl Fn(&SocketForward, Arc<SocketFile>, UnixListener, CancellationToken),
    ) {
        let _changing = self.changing.lock().await;
        let wanted = {
            let mut current = lock(&self.current);
            let wanted = current.wanted.clone();
            current.open.retain(|forward, _| wanted.contains(forward));
            wanted
        };
        let mut problems = Vec::new();
        for forward in wanted {
            if lock(&self.current).open.contains_key(&forward) {
                continue;
            }
            let open = match forward.source {
                SocketSource::Host => Open::new(None),
                SocketSource::Machine => {
                    let file = Arc::new(self.file(&forward.host));
                    let listener = match file.listen().await {
                        Ok(listener) => listener,
                        Err(error) => {
                            problems.push(SocketProblem {
                                path: forward.host,
                                problem: format!("the host cannot listen: {error}"),
                            });
                            continue;
                        }
                    };
                    let open = Open::new(Some(Arc::clone(&file)));
                    serve(&forward, file, listener, open.ended.clone());
                    open
                }
            };
            lock(&self.current).open.insert(forward, open);
        }
        lock(&self.current).problems = problems;
    }

    fn file(&self, path: &SocketPath) -> SocketFile {
        SocketFile {
            path: path.clone(),
            runtime_directory: path
                .as_path()
                .starts_with(&self.directory)
                .then(|| self.directory.clone()),
            created: Mutex::default(),
        }
    }

    /// Returns the paths in the machine at which the agent listens.
    pub(crate) fn paths_in_machine(&self) -> Vec<SocketPath> {
        let current = lock(&self.current);
        let of_host = current
            .wanted
            .iter()
            .filter(|forward| forward.source == SocketSource::Host);
        of_host.map(|forward| forward.machine.clone()).collect()
    }

    /// Returns the host's socket that a path in the machine leads to, and what is cancelled when it
    /// does not any more.
    pub(crate) fn of_host(&self, machine: &SocketPath) -> Option<(SocketPath, CancellationToken)> {
        let current = lock(&self.current);
        let mut open = current.open.iter();
        let (forward, open) = open.find(|(forward, _)| {
            forward.source == SocketSource::Host && forward.machine == *machine
        })?;
        Some((forward.host.clone(), open.ended.clone()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener as StdUnixListener};

    use super::*;

    #[tokio::test]
    async fn a_socket_is_created_and_removed_without_following_links() {
        let root = tempfile::tempdir().unwrap();
        let at = |below: &str| root.path().join(below);
        fs::create_dir(at("shared")).unwrap();
        fs::create_dir(at("other")).unwrap();
        // Nothing listens on it any more.
        drop(StdUnixListener::bind(at("other/a.sock")).unwrap());
        let sockets = Sockets::new(&at("runtime"), Vec::new());
        let path = at("shared/a.sock").display().to_string();
        let file = sockets.file(&path.parse().unwrap());
        let _listener = file.listen().await.unwrap();
        assert!(at("shared/a.sock").exists());
        fs::rename(at("shared"), at("moved")).unwrap();
        symlink(at("other"), at("shared")).unwrap();
        let before = FileIdentity::read(&at("other/a.sock")).unwrap();
        let error = file.listen().await.unwrap_err();
        assert!(matches!(error, OccupiedError::Io(_)), "{error}");
        assert!(before.is_current());
        file.remove();
        assert!(before.is_current() && !at("moved/a.sock").exists());
    }
}
