//! Connections: each is a stream of the guest's joined to one of the host's.
//!
//! Nothing is buffered but in the two sockets, whose buffers are bounded: a reader that is slow
//! closes the window of who writes to it. An end of one direction passes on and leaves the other
//! open; a reset of one side resets the other.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{inbound::Accepted, packet::Packet, udp::is_unreachable};

/// Bytes that a connection holds at most in each direction, beside what the kernels do.
const BUFFER: usize = 512 << 10;

/// A stream of the host's that is being made.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

/// One connection, without the guest's side, which is a socket of the stack's.
pub struct Connection {
    stage: Stage,
    /// The host's stream, once it is there.
    stream: Option<TcpStream>,
    /// The host has sent all that it will.
    host_is_done: bool,
    /// The guest has sent all that it will, and the host knows.
    guest_is_done: bool,
}

enum Stage {
    /// The guest has connected, and waits until the host has.
    Connecting {
        connecting: Connecting,
        /// The packet that it did so with.
        first: Vec<u8>,
    },
    /// Someone on the host has connected, and the guest is asked.
    Asking(Question),
    /// Both have.
    Joined,
}

/// Whether a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It does.
    Open,
    /// Both sides know of its end.
    Over,
    /// The guest refuses it, and the host does not know yet.
    Refused,
    /// The host has no way there, and the guest does not know yet.
    Unreachable,
}

/// What the guest is asked.
#[derive(Debug)]
pub struct Question {
    /// The guest's port that is meant.
    pub port: u16,
    /// Since when.
    pub since: Instant,
    /// What its side is to hear before what comes from the host.
    pub preface: Vec<u8>,
}

/// A socket of the stack's with buffers for one connection.
pub fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket
}

/// Connects from the host.
pub fn connect(to: SocketAddr) -> Connecting {
    Box::pin(async move {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    })
}

impl Connection {
    /// The guest wants to be connected to what is being connected to here.
    pub fn from_guest(connecting: Connecting, first: Vec<u8>) -> Connection {
        Connection::new(Stage::Connecting { connecting, first }, None)
    }

    /// Someone on the host has connected, and the guest's side is being asked.
    pub fn from_host(stream: TcpStream, question: Question) -> Connection {
        Connection::new(Stage::Asking(question), Some(stream))
    }

    /// The port of the guest's that is being asked, until it has answered.
    pub fn asked_port(&self) -> Option<u16> {
        match &self.stage {
            Stage::Asking(question) => Some(question.port),
            _ => None,
        }
    }

    /// The packet with which the guest began, as long as the host has not connected.
    pub fn first_packet(&self) -> Option<Packet<'_>> {
        match &self.stage {
            Stage::Connecting { first, .. } => Packet::of(first),
            _ => None,
        }
    }

    /// One that the guest refuses, as it was before it was asked.
    pub fn refused(&mut self) -> Option<Accepted> {
        let (Stage::Asking(question), Some(stream)) = (&self.stage, self.stream.take()) else {
            return None;
        };
        Some(Accepted {
            stream,
            port: question.port,
            since: question.since,
        })
    }

    fn new(stage: Stage, stream: Option<TcpStream>) -> Connection {
        Connection {
            stage,
            stream,
            host_is_done: false,
            guest_is_done: false,
        }
    }

    /// Carries over what can be, and notices what has ended. `context` is woken when more can.
    pub fn turn(&mut self, socket: &mut Socket<'_>, context: &mut Context<'_>) -> Progress {
        match &mut self.stage {
            Stage::Connecting { connecting, .. } => match connecting.as_mut().poll(context) {
                Poll::Pending if socket.is_open() => return Progress::Open,
                Poll::Pending => return Progress::Over,
                Poll::Ready(Ok(stream)) => {
                    socket.pause_synack(false);
                    self.stream = Some(stream);
                    self.stage = Stage::Joined;
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!("connecting for the guest: {error}");
                    if is_unreachable(&error) {
                        return Progress::Unreachable;
                    }
                    socket.abort();
                    return Progress::Over;
                }
            },
            Stage::Asking(question) => match socket.state() {
                State::SynSent => return Progress::Open,
                // What it says is short of the empty buffer's length.
                _ if socket.send_slice(&question.preface).is_ok() => self.stage = Stage::Joined,
                _ => return Progress::Refused,
            },
            Stage::Joined => {}
        }
        let Some(stream) = &self.stream else {
            return Progress::Over;
        };
        let carried = to_host(socket, stream, &mut self.guest_is_done, context)
            .and_then(|()| to_guest(socket, stream, &mut self.host_is_done, context));
        if let Err(error) = carried {
            tracing::debug!("a connection of the host's: {error}");
            socket.abort();
        }
        let is_done = self.host_is_done && self.guest_is_done;
        match socket.state() {
            State::Closed | State::TimeWait if is_done => Progress::Over,
            State::Closed => {
                reset(stream);
                Progress::Over
            }
            _ => Progress::Open,
        }
    }
}

/// Carries the guest's bytes to the host.
fn to_host(
    socket: &mut Socket<'_>,
    stream: &TcpStream,
    is_done: &mut bool,
    context: &mut Context<'_>,
) -> io::Result<()> {
    while socket.can_recv() {
        if stream.poll_write_ready(context)?.is_pending() {
            return Ok(());
        }
        let written = socket.recv(|bytes| match stream.try_write(bytes) {
            Ok(count) => (count, Ok(())),
            Err(error) => (0, Err(error)),
        });
        match written.map_err(io::Error::other)? {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    let has_ended = matches!(
        socket.state(),
        State::CloseWait | State::LastAck | State::Closing | State::TimeWait
    );
    if has_ended && !*is_done {
        SockRef::from(stream).shutdown(std::net::Shutdown::Write)?;
        *is_done = true;
    }
    Ok(())
}

/// Carries the host's bytes to the guest.
fn to_guest(
    socket: &mut Socket<'_>,
    stream: &TcpStream,
    is_done: &mut bool,
    context: &mut Context<'_>,
) -> io::Result<()> {
    while !*is_done && socket.can_send() {
        if stream.poll_read_ready(context)?.is_pending() {
            return Ok(());
        }
        let read = socket.send(|room| match stream.try_read(room) {
            Ok(count) => (count, Ok(count)),
            Err(error) => (0, Err(error)),
        });
        match read.map_err(io::Error::other)? {
            Ok(0) => {
                socket.close();
                *is_done = true;
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Has the stream end with a reset once it is dropped, so that its peer does not take what it has for
/// all there is.
pub fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!("resetting a connection: {error}");
    }
}
