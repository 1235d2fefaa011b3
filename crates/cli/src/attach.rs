//! A command's streams joined to this process's own.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    thread::{self, JoinHandle},
};

use container_client::exec::{CommandControls, RunningCommand, Streams};
use container_protocol::{ExitStatus, TerminalSize};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Joins the streams and waits for the command's end.
pub async fn attach(command: RunningCommand, streams: Streams) -> Result<ExitStatus, Failure> {
    let (end, controls) = command.into_parts();
    let (outputs, raw) = match streams {
        Streams::Pipes {
            stdin,
            stdout,
            stderr,
        } => {
            feed(stdin)?;
            let outputs = vec![
                drain(
                    stdout,
                    File::from(io::stdout().as_fd().try_clone_to_owned()?),
                ),
                drain(
                    stderr,
                    File::from(io::stderr().as_fd().try_clone_to_owned()?),
                ),
            ];
            (outputs, None)
        }
        Streams::Terminal(terminal) => {
            let raw = RawTerminal::enter()?;
            feed(terminal.try_clone()?)?;
            let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            (vec![drain(terminal, stdout)], raw)
        }
        Streams::Detached => (Vec::new(), None),
    };
    let forwarding = tokio::spawn(forward_signals(controls, raw.is_some()));
    let status = end.wait().await;
    let mut written = Ok(());
    for output in outputs {
        let one = tokio::task::spawn_blocking(|| output.join()).await;
        if let Ok(Ok(Err(error))) = one {
            written = Err(error);
        }
    }
    forwarding.abort();
    drop(raw);
    let status = status?;
    written.map_err(|error| Failure::new(format!("writing the command's output: {error}")))?;
    Ok(status)
}

/// The size of the terminal that any of the standard streams is on; the classic one otherwise.
pub fn terminal_size() -> TerminalSize {
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

/// Copies standard input to the command, on a thread that ends with the process.
fn feed(mut to: UnixStream) -> io::Result<()> {
    let mut from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    thread::Builder::new().spawn(move || {
        // A command that reads no more is no error: the rest of the input is not for it.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    })?;
    Ok(())
}

/// Copies the command's output to `to`. When nobody reads it any more the command is told.
fn drain(mut from: UnixStream, mut to: File) -> JoinHandle<io::Result<()>> {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // The machine ended; whoever waits for the command's end says so.
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

/// The terminal in raw mode: every key goes to the command. Restored on drop.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Switches standard input's terminal; none if it is not on one.
    fn enter() -> io::Result<Option<RawTerminal>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(RawTerminal { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// After this many requests to end, this process ends by itself.
const INSISTENCE: u32 = 3;

/// Hands this process's signals on to the command. Without a terminal of its own, the third
/// SIGINT or SIGTERM ends this process whatever the command does.
async fn forward_signals(mut controls: CommandControls, has_terminal: bool) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut user_1 = signal(SignalKind::user_defined1())?;
    let mut user_2 = signal(SignalKind::user_defined2())?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut asked_to_end = 0;
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
        if matches!(number, libc::SIGINT | libc::SIGTERM) && !has_terminal {
            asked_to_end += 1;
            if asked_to_end >= INSISTENCE {
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
