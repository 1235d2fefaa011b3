//! A channel to which writing can be paused between two frames of the
//! [multiplexer](container_protocol::mux), while everything is read as before.
//!
//! A virtual machine that is saved then has whole frames in its memory, whatever its agent has read
//! of them. The host can then end the streams of a copy of it.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    time::{sleep, timeout},
};

/// Length of a frame's header (yamux, "Framing").
const HEADER: usize = 12;

/// Type of the frames that a body follows.
const DATA: u8 = 0;

/// Timeout for the guest to read what was written.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Interval at which that is looked at.
const DRAIN_INTERVAL: Duration = Duration::from_millis(2);

/// The channel, for the multiplexer.
pub(crate) struct Pausable {
    channel: UnixStream,
    shared: Arc<Mutex<Shared>>,
}

/// Pauses the writing.
pub(crate) struct Writing {
    socket: OwnedFd,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    is_paused: bool,
    position: Position,
    /// The writer that waits for the end of the pause.
    waiting: Option<Waker>,
}

/// Position in the sequence of frames.
#[derive(Clone, Copy, Default)]
struct Position {
    header: [u8; HEADER],
    /// Number of bytes of the header that were written; none between two frames.
    in_header: usize,
    /// Number of bytes of the body that are left.
    body: usize,
}

impl Position {
    fn is_between_frames(&self) -> bool {
        self.in_header == 0 && self.body == 0
    }

    /// Moves on by as many of these bytes as belong to the current frame, and returns their number.
    fn finish_frame(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.body == 0 {
            taken = bytes.len().min(HEADER - self.in_header);
            self.header[self.in_header..self.in_header + taken].copy_from_slice(&bytes[..taken]);
            self.in_header += taken;
            if self.in_header < HEADER {
                return taken;
            }
            self.in_header = 0;
            if self.header[1] == DATA {
                let [.., a, b, c, d] = self.header;
                self.body = u32::from_be_bytes([a, b, c, d]) as usize;
            }
        }
        let body = self.body.min(bytes.len() - taken);
        self.body -= body;
        taken + body
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.finish_frame(bytes);
            bytes = &bytes[taken..];
        }
    }
}

impl Pausable {
    /// Wraps a channel, to which nothing was written since the last frame.
    pub(crate) fn new(channel: UnixStream, socket: OwnedFd) -> (Pausable, Writing) {
        let shared = Arc::default();
        let pausable = Pausable {
            channel,
            shared: Arc::clone(&shared),
        };
        (pausable, Writing { socket, shared })
    }
}

impl Writing {
    /// Pauses after the current frame, and waits until the engine has read everything.
    ///
    /// # Errors
    /// If the guest does not read. The writing is not paused then.
    pub(crate) async fn pause(&self) -> io::Result<()> {
        lock(&self.shared).is_paused = true;
        let drained = async {
            while !lock(&self.shared).position.is_between_frames() || self.unread()? > 0 {
                sleep(DRAIN_INTERVAL).await;
            }
            Ok(())
        };
        let drained = timeout(DRAIN_TIMEOUT, drained).await;
        let drained = drained.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if drained.is_err() {
            self.resume();
        }
        drained
    }

    /// Writes again.
    pub(crate) fn resume(&self) {
        let waiting = {
            let mut shared = lock(&self.shared);
            shared.is_paused = false;
            shared.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Returns a number that is zero if the other end of the socket has read everything.
    fn unread(&self) -> io::Result<i32> {
        let mut unread = 0;
        #[expect(
            unsafe_code,
            reason = "no library has a safe function for this request"
        )]
        // SAFETY: TIOCOUTQ (unix(7), SIOCOUTQ) writes an int, and the descriptor is open.
        unsafe { unsent(self.socket.as_raw_fd(), &raw mut unread) }?;
        Ok(unread)
    }
}

nix::ioctl_read_bad!(
    /// SIOCOUTQ.
    unsent,
    nix::libc::TIOCOUTQ,
    nix::libc::c_int
);

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Pausable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pausable {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut shared = lock(&this.shared);
        if shared.is_paused {
            if shared.position.is_between_frames() {
                shared.waiting = Some(context.waker().clone());
                return Poll::Pending;
            }
            let end = shared.position.clone().finish_frame(bytes);
            bytes = &bytes[..end];
        }
        let written = Pin::new(&mut this.channel).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            shared.position.advance(&bytes[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use container_protocol::{
        BREAK,
        mux::{self, Side},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    fn pair() -> (Pausable, Writing, UnixStream) {
        let (host, guest) = UnixStream::pair().unwrap();
        let host = host.into_std().unwrap();
        let socket = host.try_clone().unwrap().into();
        let host = UnixStream::from_std(host).unwrap();
        let (host, writing) = Pausable::new(host, socket);
        (host, writing, guest)
    }

    #[tokio::test]
    async fn a_pause_begins_between_two_frames() {
        let (mut host, writing, mut guest) = pair();
        let header = |kind, length| [0, kind, 0, 0, 0, 0, 0, 1, 0, 0, 0, length];
        let frames = [
            &header(1, 9)[..],
            &header(DATA, 3),
            b"abc",
            &header(DATA, 0),
        ]
        .concat();
        for split in 0..frames.len() {
            let (before, after) = frames.split_at(split);
            host.write_all(before).await.unwrap();
            lock(&writing.shared).is_paused = true;
            let mut taken = 0;
            let rest = async {
                while taken < after.len() {
                    taken += host.write(&after[taken..]).await.unwrap();
                }
            };
            // A write that must wait is pending for ever.
            let _ = timeout(Duration::from_millis(5), rest).await;
            let ends = [0, 12, 27, 39];
            assert!(ends.contains(&(split + taken)), "{split} {taken}");
            writing.resume();
            host.write_all(&after[taken..]).await.unwrap();
            let mut read = vec![0; frames.len()];
            guest.read_exact(&mut read).await.unwrap();
            assert_eq!(read, frames);
        }
    }

    #[tokio::test]
    async fn a_pause_waits_until_everything_is_read() {
        let (mut host, writing, mut guest) = pair();
        host.write_all(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .await
            .unwrap();
        assert!(
            timeout(Duration::from_millis(50), writing.pause())
                .await
                .is_err()
        );
        let mut frame = [0; 12];
        guest.read_exact(&mut frame).await.unwrap();
        writing.pause().await.unwrap();
    }

    #[tokio::test]
    async fn streams_continue_after_a_pause_and_end_in_a_copy() {
        let (host, writing, guest) = pair();
        let (opener, _incoming, driver) = mux::multiplex(host.compat(), Side::Host);
        tokio::spawn(driver);
        let (_opener, mut incoming, driver) = mux::multiplex(guest.compat(), Side::Guest);
        let guest_driver = tokio::spawn(driver);
        let mut stream = opener.open().await.unwrap();
        stream.write_all(b"before").await.unwrap();
        let mut of_guest = incoming.recv().await.unwrap();
        let mut read = [0; 6];
        of_guest.read_exact(&mut read).await.unwrap();
        writing.pause().await.unwrap();
        stream.write_all(b"during").await.unwrap();
        let blocked = timeout(Duration::from_millis(50), of_guest.read_exact(&mut read)).await;
        assert!(blocked.is_err());
        writing.resume();
        of_guest.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"during");
        // What the host of a copy writes.
        writing.pause().await.unwrap();
        let socket = std::os::unix::net::UnixStream::from(writing.socket);
        io::Write::write_all(&mut &socket, &BREAK).unwrap();
        assert!(guest_driver.await.unwrap().is_err());
        assert!(of_guest.read_u8().await.is_err());
    }
}
