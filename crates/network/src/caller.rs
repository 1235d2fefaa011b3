//! Whose program has connected. A TCP connection does not say; the kernel's list of sockets does
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

/// Whether the other end of a connection on this host belongs to the user of this process, or to root.
/// Not where that cannot be told.
pub fn is_owner_or_root(stream: &TcpStream) -> bool {
    match owner_of_peer(stream) {
        Ok(uid) => uid == 0 || uid == getuid().as_raw(),
        Err(error) => {
            tracing::warn!("finding out who has connected: {error}");
            false
        }
    }
}

fn owner_of_peer(stream: &TcpStream) -> io::Result<u32> {
    owner(stream.peer_addr()?, stream.local_addr()?)
}

/// Whose the socket is that is connected from here to there.
fn owner(from: SocketAddr, to: SocketAddr) -> io::Result<u32> {
    let (family, any) = match from {
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
            source_port: from.port(),
            destination_port: to.port(),
            source_address: from.ip(),
            destination_address: to.ip(),
            // Any socket: the kernel compares this unless it is all ones.
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
            Ok(socket.header.uid)
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
    fn the_kernel_knows_whose_a_connection_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(owner(from, to).unwrap(), getuid().as_raw());
        drop(client);
        let nobody = SocketAddr::new(from.ip(), 1);
        assert!(owner(nobody, to).is_err());
    }
}
