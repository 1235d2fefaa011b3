//! Runs one command from its request to its end.

use std::{io, os::unix::process::ExitStatusExt};

use container_protocol::{
    CommandControl, CommandEvent, CommandId, CommandLine, CommandRequest, ExitStatus, Port,
    StartFailure, Stdio, frame, mux::Stream,
};
use nix::libc;

use crate::{
    init::{self, InitProcess},
    signal,
};

use super::{
    login::{Login, LoginError},
    pipes::Pipes,
    rendezvous::Rendezvous,
    spawn::{self, SpawnError, Started},
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
    #[error("timed out waiting for the host to open the command's streams")]
    NoStreams,
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
    init: &InitProcess,
    rendezvous: &Rendezvous,
    id: CommandId,
    mut control: Stream,
) {
    let Ok(request) = frame::read::<CommandRequest>(&mut control).await else {
        return;
    };
    let outcome = match start(init, rendezvous, id, &request).await {
        Ok((started, streams)) => supervise(started, streams, &request, &mut control).await,
        // The machine is shutting down. The host sees the stream end, as for a command that the
        // shutdown killed.
        Err(_) if !init.is_running() => return,
        Err(error) => CommandEvent::Failed {
            message: error.to_string(),
            reason: error.reason(),
        },
    };
    // Fails only if the host has closed the stream.
    let _ = frame::write(&mut control, &outcome).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut control).await;
}

/// Programs that fail while init does not accept requests.
const TALKS_TO_INIT: [&str; 7] = [
    "systemctl",
    "loginctl",
    "busctl",
    "systemd-run",
    "poweroff",
    "reboot",
    "shutdown",
];

/// Returns whether a command must wait until init accepts requests. All others start at once, which
/// makes `container machine run` on a booting machine faster.
fn talks_to_init(command: &CommandLine) -> bool {
    let line = match command {
        CommandLine::Shell(line) => line.as_os_str().to_string_lossy(),
        CommandLine::Program(words) => match words.first() {
            Some(program) => program.as_os_str().to_string_lossy(),
            None => return false,
        },
        CommandLine::Login | CommandLine::Copy(_) => return false,
    };
    line.split(|letter: char| letter.is_whitespace() || ";|&()".contains(letter))
        .map(|word| word.rsplit('/').next().unwrap_or(word))
        .any(|word| TALKS_TO_INIT.contains(&word))
}

async fn start(
    init: &InitProcess,
    rendezvous: &Rendezvous,
    id: CommandId,
    request: &CommandRequest,
) -> Result<(Started, Streams), RunError> {
    let login = Login::resolve(request, init)?;
    let take = async |port| rendezvous.take(port).await.ok_or(RunError::NoStreams);
    let (ends, streams) = match request.stdio {
        Stdio::Pipes => {
            let stdin = take(Port::Stdin(id)).await?;
            let stdout = take(Port::Stdout(id)).await?;
            let stderr = take(Port::Stderr(id)).await?;
            let (ends, pipes) =
                Pipes::new(stdin, stdout, stderr, login.uid).map_err(RunError::Streams)?;
            (ends, Streams::Pipes(pipes))
        }
        Stdio::Terminal(size) => {
            let stream = take(Port::Terminal(id)).await?;
            let opened = CommandTerminal::new(stream, size, login.uid);
            let (ends, terminal) = opened.map_err(RunError::Streams)?;
            (ends, Streams::Terminal(terminal))
        }
        Stdio::Detached => (
            spawn::StandardStreams::null().map_err(RunError::Streams)?,
            Streams::Detached,
        ),
    };
    // After the streams were taken: the rendezvous drops them after a while.
    if talks_to_init(&request.command) {
        init::wait_until_ready(&init.program).await;
    }
    let started = spawn::in_machine(init.pid, login, ends).await?;
    Ok((started, streams))
}

/// Serves the host's control messages until the command has ended, and returns its outcome.
async fn supervise(
    started: Started,
    mut streams: Streams,
    request: &CommandRequest,
    control: &mut Stream,
) -> CommandEvent {
    let Started { mut child, notes } = started;
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
                    // A closed terminal sends SIGHUP too.
                    if request.stdio != Stdio::Detached {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_talk_to_init_are_recognized() {
        let talks = |line: &str| talks_to_init(&CommandLine::Shell(line.into()));
        assert!(talks("systemctl is-system-running --wait"));
        assert!(talks("sudo /usr/bin/systemctl restart ssh"));
        assert!(talks("cd /;poweroff"));
        assert!(!talks("cat notes-on-systemctl.txt"));
        assert!(!talks_to_init(&CommandLine::Login));
    }
}
