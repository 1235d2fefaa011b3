//! One command, from its request to its end.

use std::{io, os::unix::process::ExitStatusExt, path::Path};

use container_protocol::{
    CommandControl, CommandEvent, CommandId, CommandLine, CommandRequest, ExitStatus, Port, Stdio,
    frame, mux::Stream,
};
use nix::libc;
use tokio::process::Child;

use crate::init;

use super::{
    Commands,
    login::{Login, LoginError},
    pipes::Pipes,
    signal, spawn,
    terminal::Terminal,
};

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("starting {program} in the machine: {source}")]
    Start { program: String, source: io::Error },
    #[error("making the command's streams: {0}")]
    Streams(#[source] io::Error),
    #[error("the command's streams did not arrive")]
    NoStreams,
    #[error("the machine is on its way down")]
    Ending,
}

/// The moving ends of a running command's streams.
enum Moving {
    Pipes(Pipes),
    Terminal(Terminal),
    Nothing,
}

impl Moving {
    /// Waits until all that the command wrote has been handed on.
    async fn finish(&mut self) {
        match self {
            Moving::Pipes(pipes) => pipes.finish().await,
            Moving::Terminal(terminal) => terminal.finish().await,
            Moving::Nothing => {}
        }
    }

    /// Stops handing on: nobody is there to take it.
    fn abandon(self) {
        match self {
            Moving::Pipes(pipes) => pipes.abandon(),
            Moving::Terminal(terminal) => terminal.abandon(),
            Moving::Nothing => {}
        }
    }
}

/// Runs the command that `control` asks for and tells how it ends.
pub async fn serve(commands: &Commands, id: CommandId, mut control: Stream) {
    let Ok(request) = frame::read::<CommandRequest>(&mut control).await else {
        return;
    };
    let outcome = match start(commands, id, &request).await {
        Ok((child, moving)) => run(child, moving, &request, &mut control).await,
        // The host sees the stream end, as it does when the machine has ended.
        Err(RunError::Ending) => return,
        Err(error) => CommandEvent::Failed {
            message: error.to_string(),
        },
    };
    // A host that has gone has no use for the outcome.
    let _ = frame::write(&mut control, &outcome).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut control).await;
}

/// The programs that are of no use before init listens.
const TALKS_TO_INIT: [&str; 7] = [
    "systemctl",
    "loginctl",
    "busctl",
    "systemd-run",
    "poweroff",
    "reboot",
    "shutdown",
];

/// Whether a command is one that would fail while init is on its way up. All others start at once.
fn talks_to_init(command: &CommandLine) -> bool {
    let CommandLine::Shell(line) = command else {
        return false;
    };
    line.split(|letter: char| letter.is_whitespace() || ";|&()".contains(letter))
        .map(|word| word.rsplit('/').next().unwrap_or(word))
        .any(|word| TALKS_TO_INIT.contains(&word))
}

async fn start(
    commands: &Commands,
    id: CommandId,
    request: &CommandRequest,
) -> Result<(Child, Moving), RunError> {
    let login = Login::resolve(request)?;
    let program = login.program.clone();
    let (ends, moving) = match request.stdio {
        Stdio::Pipes => {
            let take = async |port| commands.streams.take(port).await.ok_or(RunError::NoStreams);
            let stdin = take(Port::Stdin(id)).await?;
            let stdout = take(Port::Stdout(id)).await?;
            let stderr = take(Port::Stderr(id)).await?;
            let (ends, pipes) =
                Pipes::new(stdin, stdout, stderr, login.uid).map_err(RunError::Streams)?;
            (ends, Moving::Pipes(pipes))
        }
        Stdio::Terminal(size) => {
            let stream = commands
                .streams
                .take(Port::Terminal(id))
                .await
                .ok_or(RunError::NoStreams)?;
            let opened = Terminal::new(stream, size, login.uid);
            let (ends, terminal) = opened.map_err(RunError::Streams)?;
            (ends, Moving::Terminal(terminal))
        }
        Stdio::Detached => (
            spawn::Streams::null().map_err(RunError::Streams)?,
            Moving::Nothing,
        ),
    };
    // Only now: streams that nobody takes are dropped after a while.
    if talks_to_init(&request.command) {
        init::ready(&commands.init_program).await;
    }
    let child = spawn::in_machine(commands.init, login, ends)
        .await
        .map_err(
            |source| match Path::new(&format!("/proc/{}", commands.init)).exists() {
                true => RunError::Start { program, source },
                false => RunError::Ending,
            },
        )?;
    Ok((child, moving))
}

async fn run(
    mut child: Child,
    mut moving: Moving,
    request: &CommandRequest,
    control: &mut Stream,
) -> CommandEvent {
    // If the host has gone the loop below finds out.
    let _ = frame::write(control, &CommandEvent::Started).await;
    let process = child.id().unwrap_or_default();
    let (mut requests, _events) = tokio::io::split(control);
    let mut host_is_there = true;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            message = frame::read::<CommandControl>(&mut requests), if host_is_there => match message {
                Ok(CommandControl::Signal(number)) => deliver(process, number),
                Ok(CommandControl::Resize(size)) => if let Moving::Terminal(terminal) = &moving {
                    terminal.resize(size);
                },
                Err(_) => {
                    host_is_there = false;
                    if request.stdio != Stdio::Detached {
                        deliver(process, libc::SIGHUP);
                    }
                }
            },
        }
    };
    if host_is_there {
        moving.finish().await;
    } else {
        moving.abandon();
    }
    match status {
        Ok(status) => CommandEvent::Exited(exit_status(status)),
        Err(error) => CommandEvent::Failed {
            message: format!("waiting for the command to end: {error}"),
        },
    }
}

/// Signals the command's process group, which may have ended in this moment.
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
    fn a_command_for_init_is_known_by_its_programs() {
        let talks = |line: &str| talks_to_init(&CommandLine::Shell(line.to_owned()));
        assert!(talks("systemctl is-system-running --wait"));
        assert!(talks("sudo /usr/bin/systemctl restart ssh"));
        assert!(talks("cd /;poweroff"));
        assert!(!talks("cat notes-on-systemctl.txt"));
        assert!(!talks_to_init(&CommandLine::Login));
    }
}
