//! TCP connections: each joins a socket of the stack (the guest's side) to a stream of the host.
//!
//! Data is buffered only in the two sockets, whose buffers are bounded, so a slow reader closes its
//! writer's window. The end of one direction is passed on and leaves the other direction open; a
//! reset of one side resets the other.
//!
//! ```text
//! guest connects ──▶ ConnectingHost ──┐
//!                                     ├──▶ Joined ──▶ Closed
//! host connects ───▶ ConnectingGuest ─┘
//! ```

use std::{
    future::Future,
    io, mem,
    net::{Shutdown, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{
    buffer_budget::MAX_BUFFER, host_listeners::AcceptedConnection, outgoing::Outgoing,
    udp::is_unreachable,
};

/// Time that the guest has to acknowledge the end of the host's data, that of an unacknowledged
/// segment on Linux (tcp(7), `tcp_retries2`). A guest that hangs would otherwise collect the
/// connections of clients that have gone.
const END_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Time on the stack's clock without any segment of the guest after which a connection ends that is
/// over [`END_TIMEOUT`]. A slow reader acknowledges that its window is closed.
const SILENCE: Duration = END_TIMEOUT;

/// A connection to a server on the host's side that is being established.
pub(crate) type HostConnect = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

/// One connection, apart from its socket in the stack, which is passed to [`Connection::poll`].
pub(crate) struct Connection {
    stage: Stage,
    /// Absent for connections that the egress rules are not about.
    outgoing: Option<Outgoing>,
}

enum Stage {
    /// The guest has connected. Its SYN is not answered until the host has connected too.
    ConnectingHost {
        connect: HostConnect,
        /// The IP packet with the guest's SYN, to be quoted in an ICMP error.
        first_packet: Vec<u8>,
    },
    /// A program on the host has connected, and the guest has not answered the stack's SYN yet.
    ConnectingGuest {
        accepted: AcceptedConnection,
        /// Bytes for the guest ahead of the host's data.
        preface: Vec<u8>,
    },
    /// Both sides have connected.
    Joined(Joined),
    /// The final stage, also while a stage is being replaced.
    Closed,
}

/// The host's stream of an established connection.
struct Joined {
    stream: TcpStream,
    /// The host has sent all its data, and the guest's side has been closed.
    host_is_done: bool,
    /// The guest has sent all its data, and the host's side has been shut down.
    guest_is_done: bool,
    /// Since when the guest has not acknowledged the end of the host's data; absent if it has.
    unacknowledged_end: Option<Instant>,
}

/// The result of polling a connection. After anything but `Open` the connection is closed.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The connection is being established, or is established.
    Open,
    /// Both sides have been notified of the end.
    Closed,
    /// The guest has refused the connection; the host's side is still open.
    Refused(AcceptedConnection),
    /// The host has no route to the destination. The guest, whose SYN packet this is, has not been
    /// notified.
    Unreachable(Vec<u8>),
}

/// Creates a socket of the stack for one connection, with two buffers of `size` bytes.
pub(crate) fn stack_socket(size: usize) -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; size]);
    let mut socket = Socket::new(buffer(), buffer());
    // Both sides' kernels coalesce small writes if their programs want it.
    socket.set_nagle_enabled(false);
    socket
}

/// Connects to a server from the host.
pub(crate) fn connect_host(to: SocketAddr) -> HostConnect {
    Box::pin(async move {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    })
}

impl Connection {
    /// Creates a connection that the guest has opened with `first_packet`.
    pub(crate) fn from_guest(
        connect: HostConnect,
        outgoing: Option<Outgoing>,
        first_packet: Vec<u8>,
    ) -> Connection {
        Connection {
            stage: Stage::ConnectingHost {
                connect,
                first_packet,
            },
            outgoing,
        }
    }

    /// Creates a connection that a program on the host has opened. `preface` must fit into an empty
    /// send buffer.
    pub(crate) fn from_host(accepted: AcceptedConnection, preface: Vec<u8>) -> Connection {
        Connection {
            stage: Stage::ConnectingGuest { accepted, preface },
            outgoing: None,
        }
    }

    /// Whether the egress rules, which have changed, allow the connection.
    pub(crate) fn is_still_allowed(&self) -> bool {
        let outgoing = self.outgoing.as_ref();
        outgoing.is_none_or(Outgoing::is_still_allowed)
    }

    /// Returns the guest's port while the connection waits for the guest's answer.
    pub(crate) fn connecting_port(&self) -> Option<u16> {
        match &self.stage {
            Stage::ConnectingGuest { accepted, .. } => Some(accepted.guest_port),
            _ => None,
        }
    }

    /// Moves as much data as possible. The task of `context` is woken when there is more to do.
    pub(crate) fn poll(&mut self, socket: &mut Socket<'_>, context: &mut Context<'_>) -> Progress {
        let mut joined = match mem::replace(&mut self.stage, Stage::Closed) {
            Stage::ConnectingHost {
                mut connect,
                first_packet,
            } => match connect.as_mut().poll(context) {
                Poll::Pending if socket.is_open() => {
                    self.stage = Stage::ConnectingHost {
                        connect,
                        first_packet,
                    };
                    return Progress::Open;
                }
                Poll::Pending => return Progress::Closed,
                Poll::Ready(Ok(stream)) => {
                    socket.pause_synack(false);
                    Joined::new(stream)
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!("cannot connect for the guest: {error}");
                    if is_unreachable(&error) {
                        return Progress::Unreachable(first_packet);
                    }
                    socket.abort();
                    return Progress::Closed;
                }
            },
            Stage::ConnectingGuest { accepted, preface } => {
                if socket.state() == State::SynSent && !accepted.is_overdue() {
                    self.stage = Stage::ConnectingGuest { accepted, preface };
                    return Progress::Open;
                }
                // The preface fits, so an error means that the guest has refused the connection.
                if socket.send_slice(&preface).is_err() {
                    return Progress::Refused(accepted);
                }
                Joined::new(accepted.stream)
            }
            Stage::Joined(joined) => joined,
            Stage::Closed => return Progress::Closed,
        };
        let progress = joined.poll(socket, self.outgoing.as_mut(), context);
        if matches!(progress, Progress::Open) {
            self.stage = Stage::Joined(joined);
        }
        progress
    }
}

impl Joined {
    fn new(stream: TcpStream) -> Joined {
        Joined {
            stream,
            host_is_done: false,
            guest_is_done: false,
            unacknowledged_end: None,
        }
    }

    fn poll(
        &mut self,
        socket: &mut Socket<'_>,
        outgoing: Option<&mut Outgoing>,
        context: &mut Context<'_>,
    ) -> Progress {
        let copied = self
            .copy_to_host(socket, outgoing, context)
            .and_then(|()| self.copy_to_guest(socket, context));
        if let Err(error) = copied {
            tracing::debug!("a connection of the host failed: {error}");
            socket.abort();
        }
        self.limit_end(socket);
        let is_done = self.host_is_done && self.guest_is_done;
        match socket.state() {
            State::Closed | State::TimeWait if is_done => Progress::Closed,
            State::Closed => {
                reset(&self.stream);
                Progress::Closed
            }
            _ => Progress::Open,
        }
    }

    /// Lets the stack end the connection if the guest does not answer the end of the host's data.
    fn limit_end(&mut self, socket: &mut Socket<'_>) {
        if !matches!(
            socket.state(),
            State::FinWait1 | State::Closing | State::LastAck
        ) {
            self.unacknowledged_end = None;
            socket.set_timeout(None);
            return;
        }
        let since = *self.unacknowledged_end.get_or_insert_with(Instant::now);
        // The stack counts from the last segment of the guest, which may be older than the end.
        if since.elapsed() > END_TIMEOUT {
            socket.set_timeout(Some(SILENCE.into()));
        }
    }

    /// Copies received data of the guest to the host, once it is known to be allowed.
    fn copy_to_host(
        &mut self,
        socket: &mut Socket<'_>,
        outgoing: Option<&mut Outgoing>,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        let has_ended = matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if let Some(outgoing) = outgoing
            && outgoing.is_reading()
            && socket.can_recv()
        {
            // Nothing has been taken out of the buffer, so all of it is contiguous.
            let bytes = socket.peek(MAX_BUFFER).map_err(io::Error::other)?;
            outgoing.read(bytes)?;
            if outgoing.is_reading() {
                // What has ended can never be known.
                return if has_ended {
                    Err(io::ErrorKind::UnexpectedEof.into())
                } else {
                    Ok(())
                };
            }
        }
        while socket.can_recv() {
            if self.stream.poll_write_ready(context)?.is_pending() {
                return Ok(());
            }
            let written = socket.recv(|bytes| match self.stream.try_write(bytes) {
                Ok(count) => (count, Ok(())),
                Err(error) => (0, Err(error)),
            });
            match written.map_err(io::Error::other)? {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        if has_ended && !self.guest_is_done {
            SockRef::from(&self.stream).shutdown(Shutdown::Write)?;
            self.guest_is_done = true;
        }
        Ok(())
    }

    /// Copies data of the host into the guest's send buffer.
    fn copy_to_guest(
        &mut self,
        socket: &mut Socket<'_>,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        while !self.host_is_done && socket.can_send() {
            if self.stream.poll_read_ready(context)?.is_pending() {
                return Ok(());
            }
            let read = socket.send(|buffer| match self.stream.try_read(buffer) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match read.map_err(io::Error::other)? {
                Ok(0) => {
                    socket.close();
                    self.host_is_done = true;
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Makes the stream end with a reset when it is dropped, so that its peer does not take truncated
/// data for complete.
pub(crate) fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!("cannot reset a connection: {error}");
    }
}
