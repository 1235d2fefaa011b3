//! A command's terminal.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use container_protocol::{TerminalSize, mux::Stream};
use rustix::{
    fs::{Uid, fchown},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use super::spawn;
use crate::{init::open_terminal, watched::Watched};

/// How long the terminal may be silent after the command's end before it counts as done.
const SILENCE: Duration = Duration::from_millis(100);

/// A running command's terminal, joined to its stream.
pub struct Terminal {
    master: OwnedFd,
    process_ended: Option<oneshot::Sender<()>>,
    feeding: JoinHandle<()>,
    copying: JoinHandle<()>,
}

impl Terminal {
    /// Opens a terminal that belongs to `uid` and starts copying both ways.
    pub fn new(
        stream: Stream,
        size: TerminalSize,
        uid: u32,
    ) -> io::Result<(spawn::Streams, Terminal)> {
        let (master, terminal) = open_terminal()?;
        fchown(&terminal, Some(Uid::from_raw(uid)), None)?;
        tcsetwinsize(&master, window(size))?;
        let ends = spawn::Streams {
            stdin: terminal.try_clone()?,
            stdout: terminal.try_clone()?,
            stderr: terminal,
            controlling_terminal: true,
        };
        let (process_ended, ended) = oneshot::channel();
        let (from_host, to_host) = tokio::io::split(stream);
        let keyboard = Master::new(master.try_clone()?)?;
        let screen = Master::new(master.try_clone()?)?;
        let feeding = tokio::spawn(feed(from_host, keyboard));
        let copying = tokio::spawn(hand_on(screen, to_host, ended));
        let process_ended = Some(process_ended);
        Ok((
            ends,
            Terminal {
                master,
                process_ended,
                feeding,
                copying,
            },
        ))
    }

    /// Gives the terminal a new size; the kernel tells the programs on it.
    pub fn resize(&self, size: TerminalSize) {
        // Fails only for a terminal that has just hung up.
        let _ = tcsetwinsize(&self.master, window(size));
    }

    /// Stops copying: the terminal hangs up.
    pub fn abandon(self) {
        self.copying.abort();
        self.feeding.abort();
    }

    /// Waits until all that the command wrote has been handed on.
    pub async fn finish(&mut self) {
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

async fn feed(mut from: impl AsyncRead + Unpin, mut to: Master) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn hand_on(
    mut from: Master,
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

/// The master's end of a pseudo-terminal. It ends when the terminal's last user has closed it.
pub struct Master(Watched);

impl Master {
    /// Takes the descriptor.
    pub fn new(descriptor: OwnedFd) -> io::Result<Master> {
        Watched::new(descriptor).map(Master)
    }
}

impl AsyncRead for Master {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let space = buffer.initialize_unfilled();
        let count = match ready!(self.0.poll_read(context, space)) {
            // Linux says EIO where others report the end of the file (pty(7)).
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => 0,
            other => other?,
        };
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Master {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(context, buffer)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
