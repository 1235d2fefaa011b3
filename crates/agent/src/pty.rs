//! Pseudo-terminals of the machine's `/dev/pts`.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{nonblocking_file::NonblockingFile, paths::MACHINE};

/// Opens a new pseudo-terminal and returns its master and its terminal.
pub(crate) fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let master: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("{MACHINE}/dev/pts/ptmx"))?;
    unlockpt(&master)?;
    // Opens the terminal by its master: its path is only valid in the machine's mount namespace.
    let terminal = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    Ok((master.into(), terminal))
}

/// The master of a pseudo-terminal as an asynchronous stream. Reading ends when the last process
/// has closed the terminal.
pub(crate) struct PtyMaster(NonblockingFile);

impl PtyMaster {
    /// Takes the master's descriptor.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<PtyMaster> {
        NonblockingFile::new(descriptor).map(PtyMaster)
    }
}

impl AsyncRead for PtyMaster {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let space = buffer.initialize_unfilled();
        let count = match ready!(self.0.poll_read(context, space)) {
            // Linux reports the end of a master as EIO (pty(7)).
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => 0,
            other => other?,
        };
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PtyMaster {
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
