//! Runs one command from its request to its end.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    sync::{Arc, OnceLock},
};

use container_protocol::{
    CommandControl, CommandEvent, CommandId, CommandLine, CommandRequest, ExitStatus, Port,
    StartFailure, Stdio, TerminalSize, frame, mux::Stream,
};
use nix::libc;

use crate::{init::NotReached, machine::GuestRoot, signal};

use super::{
    login::{Login, LoginError},
    pipes::Pipes,
    rendezvous::Rendezvous,
    session::{self, NoSession, Session},
    spawn::{self, SpawnError, Started},
    ssh::{self, SshFiles},
    start::{self, Boot},
    terminal::CommandTerminal,
};

/// Error of starting a command.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("cannot create the command's streams: {0}")]
    Streams(io::Error),
    #[error("the host has opened the command's streams for another command")]
    NoStreams,
    #[error("cannot open the machine's root directory: {0}")]
    Root(io::Error),
    #[error("cannot write the files of the SSH server in the machine: {0}")]
    Ssh(io::Error),
    #[error("cancelled: the host has closed the command's stream")]
    Cancelled,
}

impl RunError {
    fn reason(&self) -> StartFailure {
        match self {
            RunError::Spawn(SpawnError::NotFound(_)) => StartFailure::NotFound,
            RunError::Spawn(SpawnError::Program { .. }) => StartFailure::NotExecutable,
            _ => StartFailure::Preparation,
        }
    }
}

/// Running copies between a command's standard streams and the host.
enum Streams {
    Pipes(Pipes),
    Terminal(CommandTerminal),
    Detached,
}

impl Streams {
    /// Waits until everything that the command wrote has been copied.
    async fn finish(&mut self) {
        match self {
            Streams::Pipes(pipes) => pipes.finish().await,
            Streams::Terminal(terminal) => terminal.finish().await,
            Streams::Detached => {}
        }
    }

    /// Stops copying, because the host no longer reads.
    fn abandon(self) {
        match self {
            Streams::Pipes(pipes) => pipes.abandon(),
            Streams::Terminal(terminal) => terminal.abandon(),
            Streams::Detached => {}
        }
    }
}

/// Runs the command that the host requests on `control` and reports its end there.
pub(super) async fn serve(
    boot: &Boot,
    rendezvous: &Rendezvous,
    id: CommandId,
    mut control: Stream,
) {
    let Ok(request) = frame::read::<CommandRequest>(&mut control).await else {
        return;
    };
    let outcome = match start(boot, rendezvous, id, &request, &mut control).await {
        Ok(running) => supervise(running, &request, &mut control).await,
        // The machine is shutting down. The host sees the stream end, as for a command that the
        // shutdown killed.
        Err(_) if !boot.init.is_running() => return,
        Err(RunError::Cancelled) => return,
        Err(error) => CommandEvent::Failed {
            message: error.to_string(),
            reason: error.reason(),
        },
    };
    // Fails only if the host has closed the stream.
    let _ = frame::write(&mut control, &outcome).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut control).await;
}

/// Streams that the host has opened for a command.
enum HostStreams {
    Pipes {
        stdin: Stream,
        stdout: Stream,
        stderr: Stream,
    },
    Terminal(Stream, TerminalSize),
    Detached,
}

impl HostStreams {
    async fn take(
        rendezvous: &Rendezvous,
        id: CommandId,
        stdio: Stdio,
    ) -> Result<HostStreams, RunError> {
        let take = async |port| rendezvous.take(port).await.ok_or(RunError::NoStreams);
        Ok(match stdio {
            Stdio::Pipes => HostStreams::Pipes {
                stdin: take(Port::Stdin(id)).await?,
                stdout: take(Port::Stdout(id)).await?,
                stderr: take(Port::Stderr(id)).await?,
            },
            Stdio::Terminal(size) => HostStreams::Terminal(take(Port::Terminal(id)).await?, size),
            Stdio::Detached => HostStreams::Detached,
        })
    }

    /// Starts to copy, and returns the other ends for the command of this user. Calls `at_end` when
    /// the host has closed a pipe for input, before the command's input ends.
    fn connect(
        self,
        uid: u32,
        at_end: impl FnOnce() + Send + 'static,
    ) -> io::Result<(spawn::StandardStreams, Streams)> {
        Ok(match self {
            HostStreams::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                let (ends, pipes) = Pipes::new(stdin, stdout, stderr, uid, at_end)?;
                (ends, Streams::Pipes(pipes))
            }
            HostStreams::Terminal(stream, size) => {
                let (ends, terminal) = CommandTerminal::new(stream, size, uid)?;
                (ends, Streams::Terminal(terminal))
            }
            HostStreams::Detached => (spawn::StandardStreams::null()?, Streams::Detached),
        })
    }
}

/// A command that has been started.
struct Running {
    started: Started,
    streams: Streams,
    /// Files that it needs while it runs.
    _files: Option<SshFiles>,
}

async fn start(
    boot: &Boot,
    rendezvous: &Rendezvous,
    id: CommandId,
    request: &CommandRequest,
    control: &mut Stream,
) -> Result<Running, RunError> {
    let (streams, mut login, session) = prepare(boot, rendezvous, id, request, control).await?;
    let files = match &request.command {
        CommandLine::Ssh(server) => {
            let files = SshFiles::write(&boot.init, id, server, request, &login);
            Some(files.map_err(RunError::Ssh)?)
        }
        _ => None,
    };
    let server = Arc::new(OnceLock::new());
    if let Some(files) = &files {
        login.programs.push(files.program());
    }
    let ssh_server = Arc::clone(&server);
    let at_end = move || {
        if let Some(server) = ssh_server.get() {
            ssh::hang_up(*server);
        }
    };
    let (ends, streams) = streams
        .connect(login.uid, at_end)
        .map_err(RunError::Streams)?;
    let cgroup = session.map(|session| session.cgroup);
    let started = spawn::in_machine(boot.init.pid, login, ends, cgroup.as_deref()).await?;
    if files.is_some() {
        // Set only here.
        let _ = server.set(started.child.id().unwrap_or_default());
    }
    Ok(Running {
        started,
        streams,
        _files: files,
    })
}

/// Waits for the command's streams, and until it may start. Reports to the host what it waits for.
async fn prepare(
    boot: &Boot,
    rendezvous: &Rendezvous,
    id: CommandId,
    request: &CommandRequest,
    control: &mut Stream,
) -> Result<(HostStreams, Login, Option<Session>), RunError> {
    let (mut requests, mut events) = tokio::io::split(control);
    // The caller has ended if it closes the stream. Nothing else is requested before the start.
    let cancelled = async { while frame::read::<CommandControl>(&mut requests).await.is_ok() {} };
    let prepared = async {
        // Before the wait for the boot: the rendezvous drops them after a while.
        let streams = HostStreams::take(rendezvous, id, request.stdio).await?;
        let prepare = log_in(boot, request);
        let note = async || send_note(&mut events, start::WAITING).await;
        let (login, session, problem) = start::with_note(prepare, note).await?;
        if let Some(problem) = problem {
            send_note(&mut events, problem).await;
        }
        Ok((streams, login, session))
    };
    tokio::select! {
        prepared = prepared => prepared,
        () = cancelled => Err(RunError::Cancelled),
    }
}

/// Waits for the boot and resolves the request. Returns also a note if the command has waited in
/// vain.
async fn log_in(
    boot: &Boot,
    request: &CommandRequest,
) -> Result<(Login, Option<Session>, Option<&'static str>), RunError> {
    let settled = boot.wait(request.start).await;
    // After the wait: the boot may mount file systems over directories.
    let root = GuestRoot::of_process(boot.init.pid).map_err(RunError::Root)?;
    let mut login = Login::resolve(request, &boot.init)?;
    let (session, problem) = match settled {
        Err(NotReached::Settled) => (None, Some(start::NOT_SETTLED)),
        Ok(()) | Err(NotReached::Services) => {
            let late = settled.err().map(|_| start::NO_SERVICES);
            match boot.session(login.uid, request.start).await {
                Ok(session) => (Some(session), late),
                Err(NoSession::Unavailable) => (None, late),
                Err(NoSession::TimedOut) => (None, Some(start::NO_SESSION)),
            }
        }
    };
    for (name, value) in session::variables(&root, login.uid, session.as_ref()) {
        login.environment.set_missing(name, value);
    }
    Ok((login, session, problem))
}

async fn send_note(events: &mut (impl tokio::io::AsyncWrite + Unpin), note: &str) {
    let message = note.to_owned();
    // If the host has closed the stream, the caller notices.
    let _ = frame::write(events, &CommandEvent::Note { message }).await;
}

/// Serves the host's control messages until the command has ended, and returns its outcome.
async fn supervise(
    running: Running,
    request: &CommandRequest,
    control: &mut Stream,
) -> CommandEvent {
    let Started { mut child, notes } = running.started;
    let mut streams = running.streams;
    for message in notes {
        let _ = frame::write(control, &CommandEvent::Note { message }).await;
    }
    // If the host has closed the stream, the loop below notices.
    let _ = frame::write(control, &CommandEvent::Started).await;
    let process = child.id().unwrap_or_default();
    let (mut requests, _events) = tokio::io::split(control);
    let mut is_connected = true;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            message = frame::read::<CommandControl>(&mut requests), if is_connected => match message {
                Ok(CommandControl::Signal(number)) => deliver(process, number),
                Ok(CommandControl::Resize(size)) => if let Streams::Terminal(terminal) = &streams {
                    terminal.resize(size);
                },
                Err(_) => {
                    is_connected = false;
                    // A closed terminal sends SIGHUP too. An SSH server ends when its input does.
                    let is_server = matches!(request.command, CommandLine::Ssh(_));
                    if request.stdio != Stdio::Detached && !is_server {
                        deliver(process, libc::SIGHUP);
                    }
                }
            },
        }
    };
    if is_connected {
        streams.finish().await;
    } else {
        streams.abandon();
    }
    match status {
        Ok(status) => CommandEvent::Exited(exit_status(status)),
        Err(error) => CommandEvent::Failed {
            message: format!("cannot wait for the command to end: {error}"),
            reason: StartFailure::Preparation,
        },
    }
}

/// Sends a signal to the command's process group. Fails only if the group has just ended.
fn deliver(process: u32, number: i32) {
    let _ = signal::send_to_group(process, number);
}

fn exit_status(status: std::process::ExitStatus) -> ExitStatus {
    match status.signal() {
        Some(signal) => ExitStatus::Signal(u8::try_from(signal).unwrap_or(u8::MAX)),
        None => {
            ExitStatus::Code(u8::try_from(status.code().unwrap_or_default()).unwrap_or(u8::MAX))
        }
    }
}
