//! The user whose program has made a TCP connection, from the kernel's list of sockets
//! (sock_diag(7)).

use std::{io, net::SocketAddr};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use rustix::process::getuid;
use tokio::net::TcpStream;

/// Whether the other end of a connection on this host belongs to the user of this process or to
/// root. Returns false if the owner cannot be determined.
pub(crate) fn is_user_or_root(stream: &TcpStream) -> bool {
    match peer_owner(stream) {
        Ok(uid) => uid == 0 || uid == getuid().as_raw(),
        Err(error) => {
            tracing::warn!("connection refused: cannot determine its owner: {error}");
            false
        }
    }
}

/// Whether a program of this host accepts TCP connections to this address.
pub(crate) fn has_listener(address: SocketAddr) -> bool {
    let anyone = match address {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    };
    // The kernel looks the socket up as for an incoming segment, so it finds listeners too.
    socket_owner(address, anyone).is_ok()
}

fn peer_owner(stream: &TcpStream) -> io::Result<u32> {
    socket_owner(stream.peer_addr()?, stream.local_addr()?)
}

/// Returns the uid of the owner of the socket with this local and remote address. Fails for a
/// socket that its program has closed: the kernel reports root as the owner of those.
fn socket_owner(local: SocketAddr, remote: SocketAddr) -> io::Result<u32> {
    let (family, any) = match local {
        SocketAddr::V4(_) => (AF_INET, SocketId::new_v4()),
        SocketAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            // All ones: any socket. The kernel compares any other value with the socket's cookie.
            cookie: [0xff; 8],
            ..any
        },
    });
    let mut request = NetlinkMessage::new(header, request.into());
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut kernel = Socket::new(NETLINK_SOCK_DIAG)?;
    kernel.bind_auto()?;
    kernel.connect(&NetlinkAddress::new(0, 0))?;
    kernel.send(&bytes, 0)?;
    let mut answer = vec![0; 4096];
    let length = kernel.recv(&mut &mut answer[..], 0)?;
    let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer[..length]);
    match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
            match socket.header.inode {
                0 => Err(io::ErrorKind::NotConnected.into()),
                _ => Ok(socket.header.uid),
            }
        }
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_owner_of_a_connection_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(socket_owner(from, to).unwrap(), getuid().as_raw());
        let (accepted, _) = listener.accept().unwrap();
        drop(client);
        assert!(
            socket_owner(from, to).is_err(),
            "a closed socket has no owner"
        );
        drop(accepted);
        let nobody = SocketAddr::new(from.ip(), 1);
        assert!(socket_owner(nobody, to).is_err());
        assert!(has_listener(to));
        drop(listener);
        assert!(!has_listener(to));
        let any = TcpListener::bind("0.0.0.0:0").unwrap();
        assert!(has_listener(
            (from.ip(), any.local_addr().unwrap().port()).into()
        ));
    }
}
