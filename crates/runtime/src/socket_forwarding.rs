//! Forwards Unix sockets between the machine and the host.
//!
//! For a socket of the machine, the runtime listens on the host, and the agent connects. For a
//! socket of the host, the agent listens, and the runtime connects.

use std::{io, sync::Arc, time::Duration};

use container_protocol::{
    Port, SocketForward, SocketPath, SocketProblem, SocketReply,
    frame::{self, FrameError},
    mux::{Opener, Stream},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::oneshot,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{host_socket, listening, sockets::SocketFile, splice::splice, state::MachineState};

/// Timeout for the agent to listen. One whose machine still boots takes longer.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Forwards the wanted sockets of a machine that has booted or was resumed. Problems in the machine
/// become notes for the user.
pub(crate) async fn start(machine: &Arc<MachineState>) {
    open_wanted(machine).await;
    let machine = Arc::clone(machine);
    tokio::spawn(async move {
        let problems = listen_in_machine(&machine).await;
        add_notes(&machine, &problems);
    });
}

/// Replaces the forwarded sockets. Returns the problems; those in the machine that are not known
/// soon become notes for the user.
pub(crate) async fn replace(
    machine: &Arc<MachineState>,
    wanted: Vec<SocketForward>,
) -> Vec<SocketProblem> {
    machine.sockets().set_wanted(wanted);
    open_wanted(machine).await;
    let (report, reported) = oneshot::channel();
    tokio::spawn({
        let machine = Arc::clone(machine);
        async move {
            let problems = listen_in_machine(&machine).await;
            if let Err(problems) = report.send(problems) {
                add_notes(&machine, &problems);
            }
        }
    });
    let in_machine = timeout(AGENT_TIMEOUT, reported).await;
    let mut problems = machine.sockets().problems();
    problems.extend(in_machine.into_iter().flatten().flatten());
    problems
}

fn add_notes(machine: &MachineState, problems: &[SocketProblem]) {
    for SocketProblem { path, problem } in problems {
        tracing::warn!("socket {path}: {problem}");
        machine.add_note(format!("Socket {path} cannot be used: {problem}"));
    }
}

/// Opens the sockets on the host that are wanted, and closes the others.
async fn open_wanted(machine: &Arc<MachineState>) {
    let serve = |forward: &SocketForward, file, listener, ended| {
        let serving = serve(
            Arc::clone(machine),
            forward.machine.clone(),
            file,
            listener,
            ended,
        );
        tokio::spawn(serving);
    };
    machine.sockets().open_wanted(serve).await;
}

/// Joins connections at a socket of the host to `target` in the machine until `ended`.
async fn serve(
    machine: Arc<MachineState>,
    target: SocketPath,
    file: Arc<SocketFile>,
    listener: UnixListener,
    ended: CancellationToken,
) {
    let serve_client = |client| {
        let (machine, target) = (Arc::clone(&machine), target.clone());
        let ended = ended.clone();
        tokio::spawn(async move {
            let joined = join_machine(&machine, client, &target);
            if let Some(Err(error)) = ended.run_until_cancelled(joined).await {
                tracing::debug!("connection to {target} in the machine ended: {error}");
            }
        });
    };
    let listen = || file.listen();
    let serving = listening::serve(file.path.as_path(), listener, listen, serve_client);
    ended.run_until_cancelled(serving).await;
}

/// Joins a connection of a host's program to a socket in the machine.
async fn join_machine(
    machine: &MachineState,
    client: UnixStream,
    target: &SocketPath,
) -> io::Result<()> {
    // First, so that the machine is not suspended between the two.
    let _session = machine.begin_session();
    let opener = machine.opener().ok_or(io::ErrorKind::NotConnected)?;
    let mut stream = opener.open().await?;
    let asked = async {
        frame::write(&mut stream, &Port::Socket).await?;
        frame::write(&mut stream, target).await?;
        frame::read(&mut stream).await
    };
    match asked.await.map_err(io::Error::other)? {
        SocketReply::Connected => splice(client, stream).await,
        SocketReply::Failed(reason) => {
            tracing::info!("cannot connect to {target} in the machine: {reason}");
            Ok(())
        }
    }
}

/// Joins a guest's stream to the host's socket that a path in the machine leads to, as long as it
/// does. If it leads nowhere, the stream is closed.
pub(crate) async fn join_host(
    machine: &MachineState,
    path: &SocketPath,
    guest: Stream,
) -> io::Result<()> {
    let target = machine.sockets().of_host(path);
    let (host, ended) = target.ok_or(io::ErrorKind::NotFound)?;
    let _session = machine.begin_session();
    let client = host_socket::connect(host.as_path())
        .await
        .inspect_err(|error| {
            tracing::info!("cannot connect the machine to {host}: {error}");
        })?;
    let joined = ended.run_until_cancelled(splice(client, guest)).await;
    joined.unwrap_or_else(|| Err(io::ErrorKind::ConnectionAborted.into()))
}

/// Lets the agent listen on the wanted paths in the machine. Returns those that are not possible.
async fn listen_in_machine(machine: &MachineState) -> Vec<SocketProblem> {
    let sockets = machine.sockets();
    let _asking = sockets.asking.lock().await;
    let Some(opener) = machine.opener() else {
        return Vec::new();
    };
    let paths = sockets.paths_in_machine();
    match ask_agent(&opener, &paths).await {
        Ok(problems) => problems,
        // The machine was stopped or suspended, and is asked again.
        Err(_) if opener.is_closed() => Vec::new(),
        Err(error) => {
            let problem = format!("the guest agent does not answer: {error}");
            let of_all = paths.into_iter().map(|path| SocketProblem {
                path,
                problem: problem.clone(),
            });
            of_all.collect()
        }
    }
}

async fn ask_agent(
    opener: &Opener,
    paths: &[SocketPath],
) -> Result<Vec<SocketProblem>, FrameError> {
    let mut stream = opener.open().await?;
    frame::write(&mut stream, &Port::HostSockets).await?;
    frame::write(&mut stream, &paths).await?;
    frame::read(&mut stream).await
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use container_protocol::{
        SocketSource,
        mux::{self, Incoming, Side},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;
    use crate::{launch, phase};

    fn forward(source: SocketSource, machine: &str, host: &Path) -> SocketForward {
        SocketForward {
            source,
            machine: machine.parse().unwrap(),
            host: host.to_str().unwrap().parse().unwrap(),
        }
    }

    /// Returns a machine that is up, and the streams that the host opens to its agent.
    fn machine(directory: &Path) -> (Arc<MachineState>, Incoming, Opener) {
        let launch = launch::Launch {
            runtime_directory: directory.join("container/machines/dev"),
            ..launch::tests::example()
        };
        let machine = MachineState::new(&launch);
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (opener, _incoming, driver) = mux::multiplex(host.compat(), Side::Host);
        tokio::spawn(driver);
        let (agent, incoming, driver) = mux::multiplex(guest.compat(), Side::Guest);
        tokio::spawn(driver);
        machine.set_up(phase::Guest {
            opener,
            ..phase::tests::guest()
        });
        (machine, incoming, agent)
    }

    /// Serves one connection to a socket in the machine as an agent does, with an echo.
    async fn echo_once(incoming: &mut Incoming) -> SocketPath {
        loop {
            let mut stream = incoming.recv().await.unwrap();
            if frame::read::<Port>(&mut stream).await.unwrap() != Port::Socket {
                let paths: Vec<SocketPath> = frame::read(&mut stream).await.unwrap();
                assert_eq!(paths, []);
                frame::write(&mut stream, &Vec::<SocketProblem>::new())
                    .await
                    .unwrap();
                continue;
            }
            let path = frame::read(&mut stream).await.unwrap();
            frame::write(&mut stream, &SocketReply::Connected)
                .await
                .unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_all(&[byte]).await.unwrap();
            stream.shutdown().await.unwrap();
            return path;
        }
    }

    #[tokio::test]
    async fn a_socket_of_the_machine_is_reached_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (machine, mut incoming, _agent) = machine(directory.path());
        let path = directory
            .path()
            .join("container/machines/dev/sockets/a.sock");
        let wanted = forward(SocketSource::Machine, "/run/a.sock", &path);
        let agent = tokio::spawn(async move {
            let path = echo_once(&mut incoming).await;
            (path, incoming)
        });
        assert_eq!(replace(&machine, vec![wanted.clone()]).await, []);
        for (path, mode) in [(path.as_path(), 0o600), (path.parent().unwrap(), 0o700)] {
            let found = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{path:?}");
        }
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        let (connected, _incoming) = agent.await.unwrap();
        assert_eq!(connected, wanted.machine);
        open_wanted(&machine).await;
        assert!(path.exists(), "it is kept");
        machine.sockets().set_wanted(Vec::new());
        open_wanted(&machine).await;
        assert!(!path.exists());
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "it is closed");
    }

    #[tokio::test]
    async fn a_path_on_the_host_that_is_taken_is_a_problem() {
        let directory = tempfile::tempdir().unwrap();
        let (machine, _incoming, _agent) = machine(directory.path());
        let taken = directory.path().join("taken.sock");
        let _other = UnixListener::bind(&taken).unwrap();
        let stale = directory.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        machine.sockets().set_wanted(vec![
            forward(SocketSource::Machine, "/run/a.sock", &taken),
            forward(SocketSource::Machine, "/run/b.sock", &stale),
        ]);
        open_wanted(&machine).await;
        let problems = machine.sockets().problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].problem.contains("another program"));
        machine.sockets().set_wanted(Vec::new());
        open_wanted(&machine).await;
        assert!(taken.exists() && !stale.exists());
    }

    #[tokio::test]
    async fn the_machine_reaches_only_sockets_that_are_forwarded() {
        let directory = tempfile::tempdir().unwrap();
        let (machine, _incoming, agent) = machine(directory.path());
        let path = directory.path().join("server.sock");
        let server = UnixListener::bind(&path).unwrap();
        let wanted = forward(SocketSource::Host, "/run/a.sock", &path);
        machine.sockets().set_wanted(vec![wanted]);
        open_wanted(&machine).await;
        let join = |path: &str| {
            let (machine, agent) = (Arc::clone(&machine), agent.clone());
            let path = path.parse().unwrap();
            tokio::spawn(async move {
                let stream = agent.open().await.unwrap();
                join_host(&machine, &path, stream).await
            })
        };
        let error = join("/run/b.sock").await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let joined = join("/run/a.sock");
        let (_connection, _) = server.accept().await.unwrap();
        machine.sockets().set_wanted(Vec::new());
        open_wanted(&machine).await;
        let error = joined.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
