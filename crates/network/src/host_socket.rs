//! The socket of a listener on the host.

use std::{
    fs, io,
    net::{self, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use container_protocol::Transport;
use tokio::net::{TcpListener, UdpSocket};

/// Open socket of a host listener.
pub(crate) enum HostSocket {
    /// Accepts connections.
    Tcp(TcpListener),
    /// Receives datagrams.
    Udp(UdpSocket),
}

/// A socket of the host cannot be opened. The message explains it to the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostSocketError {
    /// Not attempted: the process would have too many open files.
    #[error("too many ports for the limit of open files (ulimit -n)")]
    TooManyPorts,
    /// The port is reserved for root.
    #[error(
        "permission denied: only root may listen on ports below {first_unprivileged}: lower net.ipv4.ip_unprivileged_port_start, or use a higher port"
    )]
    PermissionDenied {
        /// First port that every user may listen on.
        first_unprivileged: u16,
    },
    /// Another socket has this port.
    #[error(
        "address already in use: another program on this host listens on {0}, or on port {port} of every address",
        port = .0.port()
    )]
    InUse(SocketAddr),
    /// No interface of the host has the address.
    #[error("this host has no address {}", .0.ip())]
    NoAddress(SocketAddr),
    /// Another system call failed.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Address to listen on.
        address: SocketAddr,
        /// Error of the system call.
        cause: io::Error,
    },
}

impl HostSocket {
    /// Opens a socket at this address of the host.
    pub(crate) fn open(
        transport: Transport,
        address: SocketAddr,
    ) -> Result<HostSocket, HostSocketError> {
        let opened = match transport {
            Transport::Tcp => listen(address).map(HostSocket::Tcp),
            Transport::Udp => bind(address).map(HostSocket::Udp),
        };
        opened.map_err(|cause| HostSocketError::new(address, cause))
    }

    /// Returns a socket that is open already.
    pub(crate) fn from_open(transport: Transport, socket: OwnedFd) -> io::Result<HostSocket> {
        match transport {
            Transport::Tcp => TcpListener::from_std(socket.into()).map(HostSocket::Tcp),
            Transport::Udp => UdpSocket::from_std(socket.into()).map(HostSocket::Udp),
        }
    }

    /// Returns another descriptor of the same socket.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        match self {
            HostSocket::Tcp(socket) => socket.as_fd().try_clone_to_owned(),
            HostSocket::Udp(socket) => socket.as_fd().try_clone_to_owned(),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

impl HostSocketError {
    fn new(address: SocketAddr, cause: io::Error) -> HostSocketError {
        match cause.kind() {
            io::ErrorKind::PermissionDenied => HostSocketError::PermissionDenied {
                first_unprivileged: first_unprivileged_port().unwrap_or(1024),
            },
            io::ErrorKind::AddrInUse => HostSocketError::InUse(address),
            io::ErrorKind::AddrNotAvailable => HostSocketError::NoAddress(address),
            _ => HostSocketError::Listen { address, cause },
        }
    }
}

/// Returns the first port that every user may listen on (ip(7)).
fn first_unprivileged_port() -> Option<u16> {
    let setting = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    setting.ok()?.trim().parse().ok()
}
