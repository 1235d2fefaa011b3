//! Multiplexes many streams over one byte stream: yamux
//! (<https://github.com/hashicorp/yamux/blob/master/spec.md>).
//!
//! Each stream has its own window, so memory is bounded on both sides: at most `WINDOW` bytes of
//! a stream may be received and not yet read. A side that has opened many streams waits for one to
//! end before it opens another, because yamux ends the connection at its own limit.
//!
//! A stream begins with one byte of the side that accepts it, which [`Stream`] hides. Yamux
//! acknowledges a stream with the first data in this direction, and opens no more while 256 are
//! not acknowledged; some streams have no such data.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use tokio::{
    io::ReadBuf,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
pub use yamux::ConnectionError;
use yamux::{Config, Connection, Mode};

/// One stream. It is reset if it is dropped before both sides have closed it.
#[derive(Debug)]
pub struct Stream {
    inner: Box<Compat<yamux::Stream>>,
    greeting: Greeting,
    /// A place among the streams at a time.
    _permit: OwnedSemaphorePermit,
}

/// What is left to do about the first byte of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    Send,
    Receive,
    Done,
}

/// Maximum number of streams at a time that the host opens: four for each command that has no
/// terminal.
const HOST_STREAMS: usize = 8192;

/// Maximum number of streams at a time that the guest opens, most of them for clients of the SSH
/// agent.
const GUEST_STREAMS: usize = 1024;

/// Bytes of a stream that may be received and not yet read: yamux's initial window.
const WINDOW: usize = 256 * 1024;

/// Yamux's limit of streams at a time, which is never reached.
const STREAMS: usize = 1 << 20;

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

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Host => Side::Guest,
            Side::Guest => Side::Host,
        }
    }

    /// Returns the maximum number of streams at a time that this side opens.
    fn streams(self) -> usize {
        match self {
            Side::Host => HOST_STREAMS,
            Side::Guest => GUEST_STREAMS,
        }
    }
}

/// Opens streams to the other side.
#[derive(Debug, Clone)]
pub struct Opener {
    requests: mpsc::Sender<OpenRequest>,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct OpenRequest {
    permit: OwnedSemaphorePermit,
    reply: oneshot::Sender<Stream>,
}

impl Opener {
    /// Opens a stream. Waits for another to end if there are too many.
    ///
    /// # Errors
    /// `BrokenPipe` after the connection has ended.
    pub async fn open(&self) -> io::Result<Stream> {
        let permits = Arc::clone(&self.permits);
        let permit = tokio::select! {
            permit = permits.acquire_owned() => permit.map_err(|_| ended())?,
            () = self.requests.closed() => return Err(ended()),
        };
        let (reply, stream) = oneshot::channel();
        let request = OpenRequest { permit, reply };
        self.requests.send(request).await.map_err(|_| ended())?;
        stream.await.map_err(|_| ended())
    }

    /// Returns whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.requests.closed().await;
    }
}

/// Streams that the other side opens. Those that are too many are reset.
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
        // Not more than the initial windows, so that none grows. It is set first, because it may
        // never be less.
        .set_max_connection_receive_window(Some(STREAMS * WINDOW))
        .set_max_num_streams(STREAMS)
        .set_split_send_size(FRAME);
    let mode = match side {
        Side::Host => Mode::Client,
        Side::Guest => Mode::Server,
    };
    let connection = Connection::new(io, config, mode);
    let (requests, pending) = mpsc::channel(16);
    let (arrived, incoming) = mpsc::unbounded_channel();
    let permits = Arc::new(Semaphore::new(side.streams()));
    // A stream that the other side has reset counts there no more, and here until it is dropped.
    let places = Arc::new(Semaphore::new(2 * side.other().streams()));
    (
        Opener { requests, permits },
        incoming,
        drive(connection, pending, arrived, places),
    )
}

async fn drive<T>(
    mut connection: Connection<T>,
    mut requests: mpsc::Receiver<OpenRequest>,
    arrived: mpsc::UnboundedSender<Stream>,
    places: Arc<Semaphore>,
) -> Result<(), ConnectionError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut waiting: Option<OpenRequest> = None;
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
                        let stream = Stream::new(stream, Greeting::Receive, request.permit);
                        let _ = request.reply.send(stream);
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => waiting = Some(request),
                }
            }
            match connection.poll_next_inbound(context) {
                Poll::Ready(Some(Ok(stream))) => {
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        let mut stream = Stream::new(stream, Greeting::Send, place);
                        // The stream's user sees an error, and sends what cannot be sent now.
                        let _ = stream.poll_greet(context);
                        // Fails if `Incoming` was dropped; the stream is reset then.
                        let _ = arrived.send(stream);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

impl Stream {
    fn new(stream: yamux::Stream, greeting: Greeting, permit: OwnedSemaphorePermit) -> Stream {
        Stream {
            inner: Box::new(stream.compat()),
            greeting,
            _permit: permit,
        }
    }

    /// Sends the first byte, if it is due.
    fn poll_greet(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.greeting == Greeting::Send {
            ready!(tokio::io::AsyncWrite::poll_write(
                Pin::new(&mut self.inner),
                context,
                &[0]
            ))?;
            self.greeting = Greeting::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Receives the first byte, if it is due.
    fn poll_greeted(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.greeting == Greeting::Receive {
            let mut byte = [0];
            let mut buffer = ReadBuf::new(&mut byte);
            ready!(tokio::io::AsyncRead::poll_read(
                Pin::new(&mut self.inner),
                context,
                &mut buffer
            ))?;
            self.greeting = Greeting::Done;
        }
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_greet(context))?;
        ready!(self.poll_greeted(context))?;
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_greet(context))?;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_greet(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_greet(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
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

    #[tokio::test]
    async fn one_stream_too_many_waits_and_ends_nothing() {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (_opener, mut incoming, driver) = multiplex(host.compat(), Side::Host);
        tokio::spawn(driver);
        let (opener, _incoming, driver) = multiplex(guest.compat(), Side::Guest);
        tokio::spawn(driver);
        tokio::spawn(async move {
            while let Some(mut stream) = incoming.recv().await {
                tokio::spawn(async move {
                    stream.read_to_end(&mut Vec::new()).await.unwrap();
                    stream.shutdown().await.unwrap();
                });
            }
        });
        let mut streams = Vec::new();
        for _ in 0..GUEST_STREAMS {
            let mut stream = opener.open().await.unwrap();
            stream.write_all(b"x").await.unwrap();
            streams.push(stream);
        }
        let more = opener.open();
        tokio::pin!(more);
        assert!(futures::poll!(&mut more).is_pending());
        streams.pop();
        streams.push(more.await.unwrap());
        for stream in &mut streams {
            stream.write_all(b"x").await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn too_many_streams_of_the_other_side_are_reset() {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (_opener, mut incoming, driver) = multiplex(host.compat(), Side::Host);
        tokio::spawn(driver);
        let (mut opener, _incoming, driver) = multiplex(guest.compat(), Side::Guest);
        tokio::spawn(driver);
        // An agent that breaks the rule.
        opener.permits = Arc::new(Semaphore::new(STREAMS));
        let mut kept = Vec::new();
        for _ in 0..2 * GUEST_STREAMS {
            let mut stream = opener.open().await.unwrap();
            stream.write_all(b"x").await.unwrap();
            let mut arrived = incoming.recv().await.unwrap();
            arrived.write_all(b"x").await.unwrap();
            stream.read_u8().await.unwrap();
            kept.push((stream, arrived));
        }
        let mut refused = opener.open().await.unwrap();
        refused.write_all(b"x").await.unwrap();
        assert!(refused.read_u8().await.is_err());
        let (stream, arrived) = kept.first_mut().unwrap();
        stream.write_all(b"y").await.unwrap();
        assert_eq!(arrived.read_u8().await.unwrap(), b'x');
        assert_eq!(arrived.read_u8().await.unwrap(), b'y');
    }
}
