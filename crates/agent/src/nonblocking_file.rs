//! Asynchronous access to a device or terminal.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;

/// An open file that is read and written through the event loop.
#[derive(Debug)]
pub(crate) struct NonblockingFile {
    file: AsyncFd<File>,
}

impl NonblockingFile {
    /// Takes a descriptor that epoll supports and makes it non-blocking.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<NonblockingFile> {
        let flags = fcntl_getfl(&descriptor)?;
        fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?;
        // SAFETY: the file owns its descriptor, always returns the same one, and is never replaced
        // inside the `AsyncFd`.
        let file = unsafe { AsyncFd::register(File::from(descriptor)) }?;
        Ok(NonblockingFile { file })
    }

    /// Reads into `buffer` once data is available and returns the number of bytes.
    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.file.poll_read_ready(context))?;
            // `try_io` fails when the file would block; then readiness is awaited again.
            if let Ok(done) = ready.try_io(|file| file.get_ref().read(buffer)) {
                return Poll::Ready(done);
            }
        }
    }

    /// Writes a prefix of `buffer` once there is room and returns the number of bytes.
    pub(crate) fn poll_write(
        &self,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.file.poll_write_ready(context))?;
            if let Ok(done) = ready.try_io(|file| file.get_ref().write(buffer)) {
                return Poll::Ready(done);
            }
        }
    }
}
