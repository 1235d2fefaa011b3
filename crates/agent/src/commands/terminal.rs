//! Connects the pseudo-terminal of a command to its stream.

use std::{io, os::fd::OwnedFd, time::Duration};

use container_protocol::{TerminalSize, mux::Stream};
use rustix::{
    fs::{Uid, fchown},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use super::spawn;
use crate::pty::{self, PtyMaster};

/// Output of the terminal is complete after this long without any once the command has ended.
/// Background processes may keep the terminal open.
const SILENCE: Duration = Duration::from_millis(100);

/// Running copies between a command's pseudo-terminal and its stream.
pub(super) struct CommandTerminal {
    master: OwnedFd,
    process_ended: Option<oneshot::Sender<()>>,
    feeding: JoinHandle<()>,
    copying: JoinHandle<()>,
}

impl CommandTerminal {
    /// Opens a terminal that belongs to `uid` and starts copying both ways.
    pub(super) fn new(
        stream: Stream,
        size: TerminalSize,
        uid: u32,
    ) -> io::Result<(spawn::StandardStreams, CommandTerminal)> {
        let (master, terminal) = pty::open()?;
        fchown(&terminal, Some(Uid::from_raw(uid)), None)?;
        tcsetwinsize(&master, window(size))?;
        let ends = spawn::StandardStreams {
            stdin: terminal.try_clone()?,
            stdout: terminal.try_clone()?,
            stderr: terminal,
            controlling_terminal: true,
        };
        let (process_ended, ended) = oneshot::channel();
        let (from_host, to_host) = tokio::io::split(stream);
        let keyboard = PtyMaster::new(master.try_clone()?)?;
        let screen = PtyMaster::new(master.try_clone()?)?;
        let feeding = tokio::spawn(feed(from_host, keyboard));
        let copying = tokio::spawn(copy_output(screen, to_host, ended));
        let process_ended = Some(process_ended);
        Ok((
            ends,
            CommandTerminal {
                master,
                process_ended,
                feeding,
                copying,
            },
        ))
    }

    /// Resizes the terminal. The kernel notifies its programs with SIGWINCH.
    pub(super) fn resize(&self, size: TerminalSize) {
        // Fails only if the terminal has just hung up.
        let _ = tcsetwinsize(&self.master, window(size));
    }

    /// Stops copying and hangs up the terminal.
    pub(super) fn abandon(self) {
        self.copying.abort();
        self.feeding.abort();
    }

    /// Waits until everything that the command wrote has been copied. Call it after the command has
    /// ended.
    pub(super) async fn finish(&mut self) {
        if let Some(process_ended) = self.process_ended.take() {
            let _ = process_ended.send(());
        }
        let _ = (&mut self.copying).await;
        self.feeding.abort();
    }
}

fn window(size: TerminalSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

async fn feed(mut from: impl AsyncRead + Unpin, mut to: PtyMaster) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn copy_output(
    mut from: PtyMaster,
    mut to: impl AsyncWrite + Unpin,
    mut process_ended: oneshot::Receiver<()>,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut ended = false;
    loop {
        let count = if ended {
            match timeout(SILENCE, from.read(&mut buffer)).await {
                Ok(count) => count,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                count = from.read(&mut buffer) => count,
                _ = &mut process_ended => {
                    ended = true;
                    continue;
                }
            }
        };
        let Ok(count @ 1..) = count else { break };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
