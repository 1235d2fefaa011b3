//! A file descriptor that the event loop watches: a device or a terminal.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;

/// An open file read and written without blocking.
#[derive(Debug)]
pub struct Watched {
    file: AsyncFd<File>,
}

impl Watched {
    /// Takes the descriptor and makes it non-blocking.
    pub fn new(descriptor: OwnedFd) -> io::Result<Watched> {
        let flags = fcntl_getfl(&descriptor)?;
        fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?;
        // SAFETY: the file owns its descriptor, always names the same one, and is never
        // replaced inside the `AsyncFd`.
        let file = unsafe { AsyncFd::register(File::from(descriptor)) }?;
        Ok(Watched { file })
    }

    /// Reads some bytes, as soon as there are any.
    pub fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.file.poll_read_ready(context))?;
            if let Ok(done) = ready.try_io(|file| file.get_ref().read(buffer)) {
                return Poll::Ready(done);
            }
        }
    }

    /// Writes some bytes, as soon as there is room.
    pub fn poll_write(&self, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.file.poll_write_ready(context))?;
            if let Ok(done) = ready.try_io(|file| file.get_ref().write(buffer)) {
                return Poll::Ready(done);
            }
        }
    }
}
