//! Connects a guest command's streams to those of this process.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    thread::{self, JoinHandle},
};

use container_client::exec::{CommandControls, CommandEnd, RunningCommand, Streams};
use container_protocol::{ExitStatus, TerminalSize};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind};

use crate::{
    failure::Failure,
    interrupt::{listen, unless_interrupted},
};

/// Size of the buffer between the command's output and this process's.
const BUFFER: usize = 64 * 1024;

/// SIGINTs and SIGTERMs after which this process exits although the command still runs.
const SIGNALS_UNTIL_EXIT: u32 = 3;

/// Connects the streams, forwards signals, and waits until the command ends and its output is
/// written.
pub(crate) async fn attach(
    command: RunningCommand,
    streams: Streams,
) -> Result<ExitStatus, Failure> {
    let (end, controls) = command.into_parts();
    let (outputs, raw) = connect(streams)?;
    let forwarding = tokio::spawn(forward_signals(controls, raw.is_some()));
    let ended = wait(end, outputs).await;
    forwarding.abort();
    // The terminal is restored before anything is printed about the command.
    drop(raw);
    ended
}

/// Connects the streams, and waits until the command ends and its output is written. Signals end
/// this process.
pub(crate) async fn attach_without_signals(
    command: RunningCommand,
    streams: Streams,
) -> Result<ExitStatus, Failure> {
    let (end, _controls) = command.into_parts();
    let (outputs, _raw) = connect(streams)?;
    unless_interrupted(wait(end, outputs)).await?
}

/// Running copies of a command's output.
type Outputs = Vec<JoinHandle<io::Result<()>>>;

/// Starts to copy between the streams and those of this process.
fn connect(streams: Streams) -> Result<(Outputs, Option<RawTerminal>), Failure> {
    Ok(match streams {
        Streams::Pipes {
            stdin,
            stdout,
            stderr,
        } => {
            copy_stdin(stdin)?;
            let outputs = vec![
                copy_output(stdout, duplicate(io::stdout())?),
                copy_output(stderr, duplicate(io::stderr())?),
            ];
            (outputs, None)
        }
        Streams::Terminal(terminal) => {
            let raw = RawTerminal::enter().map_err(Failure::cannot("set up the terminal"))?;
            let input = terminal.try_clone();
            copy_stdin(input.map_err(Failure::cannot("connect the terminal"))?)?;
            (vec![copy_output(terminal, duplicate(io::stdout())?)], raw)
        }
        Streams::Detached => (Vec::new(), None),
    })
}

/// Waits until the command has ended and its output is written.
async fn wait(end: CommandEnd, outputs: Outputs) -> Result<ExitStatus, Failure> {
    let status = end.wait().await;
    let mut written = Ok(());
    for output in outputs {
        let one = tokio::task::spawn_blocking(|| output.join()).await;
        if let Ok(Ok(Err(error))) = one {
            written = Err(error);
        }
    }
    let status = status?;
    written.map_err(Failure::cannot("write the command's output"))?;
    Ok(status)
}

/// Returns the size of the first standard stream that is a terminal, or 24 × 80 if none is.
pub(crate) fn terminal_size() -> TerminalSize {
    let sizes = [
        tcgetwinsize(io::stdout()),
        tcgetwinsize(io::stdin()),
        tcgetwinsize(io::stderr()),
    ];
    let known = sizes
        .into_iter()
        .flatten()
        .find(|size| size.ws_row > 0 && size.ws_col > 0);
    known.map_or(
        TerminalSize {
            rows: 24,
            columns: 80,
        },
        |size| TerminalSize {
            rows: size.ws_row,
            columns: size.ws_col,
        },
    )
}

/// Returns a file of its own for a standard stream: without the lock and the buffer of
/// [`io::Stdout`].
fn duplicate(stream: impl AsFd) -> Result<File, Failure> {
    let descriptor = stream.as_fd().try_clone_to_owned();
    descriptor
        .map(File::from)
        .map_err(Failure::cannot("duplicate a standard stream"))
}

/// Copies standard input to the command, on a thread that is not joined: a read from a terminal
/// cannot be cancelled.
fn copy_stdin(mut to: UnixStream) -> Result<(), Failure> {
    let mut from = duplicate(io::stdin())?;
    let copy = move || {
        // Not an error: a command may close its standard input early.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::Builder::new()
        .spawn(copy)
        .map(drop)
        .map_err(Failure::cannot("start a thread"))
}

/// Copies the command's output to `to`, on a thread. If `to` is closed, the connection is shut
/// down, and the command gets EPIPE.
fn copy_output(mut from: UnixStream, mut to: File) -> JoinHandle<io::Result<()>> {
    thread::spawn(move || {
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // The machine stopped. The wait for the command's end reports that.
                Err(_) => return Ok(()),
            };
            if let Err(error) = to.write_all(&buffer[..count]) {
                let _ = from.shutdown(Shutdown::Both);
                return match error.kind() {
                    ErrorKind::BrokenPipe => Ok(()),
                    _ => Err(error),
                };
            }
        }
    })
}

/// Standard input's terminal in raw mode, so that every key goes to the command. Restored on drop.
struct RawTerminal {
    original: Termios,
}

impl RawTerminal {
    /// Enters raw mode. Returns nothing if standard input is not a terminal.
    fn enter() -> io::Result<Option<RawTerminal>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let original = tcgetattr(&stdin)?;
        let mut raw = original.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(RawTerminal { original }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Fails only if the terminal no longer exists.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.original);
    }
}

/// Forwards this process's signals to the command. Without a terminal in raw mode, the third SIGINT
/// or SIGTERM ends this process even if the command ignores them.
async fn forward_signals(mut controls: CommandControls, is_raw: bool) -> Result<(), Failure> {
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    let mut quit = listen(SignalKind::quit())?;
    let mut user_1 = listen(SignalKind::user_defined1())?;
    let mut user_2 = listen(SignalKind::user_defined2())?;
    let mut resized = listen(SignalKind::window_change())?;
    let mut end_requests = 0;
    loop {
        let number = tokio::select! {
            number = received(&mut interrupt, libc::SIGINT) => number,
            number = received(&mut terminate, libc::SIGTERM) => number,
            number = received(&mut hang_up, libc::SIGHUP) => number,
            number = received(&mut quit, libc::SIGQUIT) => number,
            number = received(&mut user_1, libc::SIGUSR1) => number,
            number = received(&mut user_2, libc::SIGUSR2) => number,
            _ = resized.recv() => {
                controls.resize(terminal_size()).await?;
                continue;
            }
        };
        if matches!(number, libc::SIGINT | libc::SIGTERM) && !is_raw {
            end_requests += 1;
            if end_requests >= SIGNALS_UNTIL_EXIT {
                std::process::exit(128 + number);
            }
        }
        controls.signal(number).await?;
    }
}

async fn received(signal: &mut Signal, number: i32) -> i32 {
    signal.recv().await;
    number
}
