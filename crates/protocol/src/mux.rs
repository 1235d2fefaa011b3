//! Multiplexes many streams over one byte stream: yamux
//! (<https://github.com/hashicorp/yamux/blob/master/spec.md>).
//!
//! Each stream has its own window, so memory is bounded on both sides: `CONNECTION_WINDOW` bytes of
//! all streams together may be received and not yet read.

use std::{future::poll_fn, io, task::Poll};

use futures::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
pub use yamux::ConnectionError;
use yamux::{Config, Connection, Mode};

/// One stream. It is reset if it is dropped before both sides have closed it.
pub type Stream = Compat<yamux::Stream>;

/// Maximum number of streams at a time.
const STREAMS: usize = 512;

/// Maximum number of unread bytes on all streams together: yamux's initial window of 256 KiB for
/// each stream.
const CONNECTION_WINDOW: usize = STREAMS * 256 * 1024;

/// Maximum payload of a yamux frame. With its header of 12 bytes it fills one request of the
/// guest's virtio-serial driver, 32 KiB.
const FRAME: usize = 32 * 1024 - 12;

/// End of the byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The runtime, on the host.
    Host,
    /// The agent, in the guest.
    Guest,
}

/// Opens streams to the other side.
#[derive(Debug, Clone)]
pub struct Opener {
    requests: mpsc::Sender<oneshot::Sender<Stream>>,
}

impl Opener {
    /// Opens a stream.
    ///
    /// # Errors
    /// `BrokenPipe` after the connection has ended.
    pub async fn open(&self) -> io::Result<Stream> {
        let (reply, stream) = oneshot::channel();
        self.requests.send(reply).await.map_err(|_| ended())?;
        stream.await.map_err(|_| ended())
    }

    /// Returns whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

/// Streams that the other side opens.
pub type Incoming = mpsc::UnboundedReceiver<Stream>;

/// Starts a connection over `io`. The returned future transfers all bytes of all streams. It must
/// be polled all the time, and ends with the connection.
pub fn multiplex<T>(
    io: T,
    side: Side,
) -> (
    Opener,
    Incoming,
    impl Future<Output = Result<(), ConnectionError>>,
)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut config = Config::default();
    config
        .set_max_num_streams(STREAMS)
        .set_max_connection_receive_window(Some(CONNECTION_WINDOW))
        .set_split_send_size(FRAME);
    let mode = match side {
        Side::Host => Mode::Client,
        Side::Guest => Mode::Server,
    };
    let connection = Connection::new(io, config, mode);
    let (requests, pending) = mpsc::channel(16);
    let (arrived, incoming) = mpsc::unbounded_channel();
    (
        Opener { requests },
        incoming,
        drive(connection, pending, arrived),
    )
}

async fn drive<T>(
    mut connection: Connection<T>,
    mut requests: mpsc::Receiver<oneshot::Sender<Stream>>,
    arrived: mpsc::UnboundedSender<Stream>,
) -> Result<(), ConnectionError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut waiting: Option<oneshot::Sender<Stream>> = None;
    poll_fn(|context| {
        loop {
            if waiting.is_none()
                && let Poll::Ready(Some(request)) = requests.poll_recv(context)
            {
                waiting = Some(request);
            }
            if let Some(request) = waiting.take() {
                match connection.poll_new_outbound(context) {
                    Poll::Ready(Ok(stream)) => {
                        // Fails if the caller was cancelled; the stream is reset then.
                        let _ = request.send(stream.compat());
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => waiting = Some(request),
                }
            }
            match connection.poll_next_inbound(context) {
                Poll::Ready(Some(Ok(stream))) => {
                    // Fails if `Incoming` was dropped; the stream is reset then.
                    let _ = arrived.send(stream.compat());
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

fn ended() -> io::Error {
    io::Error::new(
        io::ErrorKind::BrokenPipe,
        "the channel to the machine is closed",
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn bytes_pass_in_both_directions_and_a_half_close_is_seen() {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (opener, _incoming, driver) = multiplex(host.compat(), Side::Host);
        tokio::spawn(driver);
        let (_opener, mut incoming, driver) = multiplex(guest.compat(), Side::Guest);
        tokio::spawn(driver);
        tokio::spawn(async move {
            let mut stream = incoming.recv().await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            stream.write_all(&received).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let sent: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut stream = opener.open().await.unwrap();
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert!(back == sent);
    }

    #[tokio::test]
    async fn opening_fails_after_the_other_side_has_gone() {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (opener, _incoming, driver) = multiplex(host.compat(), Side::Host);
        let driver = tokio::spawn(driver);
        drop(guest);
        let _ = driver.await.unwrap();
        assert!(opener.open().await.is_err());
    }
}
