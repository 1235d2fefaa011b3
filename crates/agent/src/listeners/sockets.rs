//! Reads the kernel's list of listening sockets (sock_diag(7)).
//!
//! A dump by state takes a fraction of a millisecond, whatever the number of connections: the
//! kernel keeps listening sockets in a table of their own.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use container_protocol::{RELAY_PORT, Transport};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};

/// Port of DHCP clients (RFC 2131, section 4.1). Only their server sends to it.
const DHCP_CLIENT: u16 = 68;

/// Size of the receive buffer in bytes. The kernel's dumps use messages of at most 32 KiB.
const RECEIVE_BUFFER: usize = 32 << 10;

/// A socket that accepts connections or datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ListeningSocket {
    pub transport: Transport,
    pub address: SocketAddr,
    /// Inode number in sockfs, by which the socket's processes are found.
    pub inode: u32,
}

/// Returns the addresses of the machine on which a socket listens on `port`.
pub(crate) fn addresses_of(transport: Transport, port: u16) -> io::Result<Vec<SocketAddr>> {
    let listening = SocketList::open()?.listening()?;
    let on_port = listening
        .into_iter()
        .filter(|socket| socket.transport == transport && socket.address.port() == port);
    Ok(on_port.map(|socket| socket.address).collect())
}

/// Connection to the kernel's list of sockets.
pub(super) struct SocketList {
    netlink: Socket,
    buffer: Vec<u8>,
}

impl SocketList {
    /// Connects to the kernel.
    pub(super) fn open() -> io::Result<SocketList> {
        let mut netlink = Socket::new(NETLINK_SOCK_DIAG)?;
        netlink.bind_auto()?;
        netlink.connect(&NetlinkAddress::new(0, 0))?;
        Ok(SocketList {
            netlink,
            buffer: vec![0; RECEIVE_BUFFER],
        })
    }

    /// Returns all listening TCP sockets and all UDP sockets without a peer, except the agent's.
    pub(super) fn listening(&mut self) -> io::Result<BTreeSet<ListeningSocket>> {
        let mut sockets = BTreeSet::new();
        for family in [AF_INET, AF_INET6] {
            // An unconnected UDP socket has the state CLOSE.
            for (transport, protocol, states) in [
                (Transport::Tcp, IPPROTO_TCP, StateFlags::LISTEN),
                (Transport::Udp, IPPROTO_UDP, StateFlags::CLOSE),
            ] {
                self.request_dump(family, protocol, states)?;
                self.receive_dump(|response| {
                    sockets.extend(listening_socket(transport, response));
                })?;
            }
        }
        Ok(sockets)
    }

    fn request_dump(&mut self, family: u8, protocol: u8, states: StateFlags) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let socket_id = match family {
            AF_INET => SocketId::new_v4(),
            _ => SocketId::new_v6(),
        };
        let request = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol,
            extensions: ExtensionFlags::empty(),
            states,
            socket_id,
        });
        let mut request = NetlinkMessage::new(header, request.into());
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.netlink.send(&bytes, 0).map(drop)
    }

    /// Passes each socket of the answer to `receive`.
    fn receive_dump(&mut self, mut receive: impl FnMut(&InetResponse)) -> io::Result<()> {
        loop {
            let length = self.netlink.recv(&mut &mut self.buffer[..], 0)?;
            let mut rest = self.buffer.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest);
                let message = message.map_err(io::Error::other)?;
                // Messages are aligned to four bytes (netlink(7)).
                rest = rest
                    .get((message.header.length as usize).next_multiple_of(4)..)
                    .unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                        receive(&response);
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

/// Returns the listening socket that the kernel describes, or `None` for one that the host must not
/// see.
fn listening_socket(transport: Transport, response: &InetResponse) -> Option<ListeningSocket> {
    let id = &response.header.socket_id;
    let port = id.source_port;
    let is_bound = port != 0 && id.destination_port == 0;
    let is_dhcp_client = transport == Transport::Udp && port == DHCP_CLIENT;
    if !is_bound || is_dhcp_client || port == RELAY_PORT {
        return None;
    }
    // An IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2) is listed as IPv4.
    let address = match id.source_address.to_canonical() {
        // The host's stack connects over IPv4, which does not reach such a socket. The relay does,
        // and loopback addresses are what the host uses it for.
        address if address.is_unspecified() && is_ipv6_only(response) => {
            IpAddr::V6(Ipv6Addr::LOCALHOST)
        }
        address => address,
    };
    Some(ListeningSocket {
        transport,
        address: (address, port).into(),
        inode: response.header.inode,
    })
}

/// Returns whether a socket refuses IPv4 (ipv6(7), `IPV6_V6ONLY`).
fn is_ipv6_only(response: &InetResponse) -> bool {
    response.nlas.contains(&Nla::SkV6Only(true))
}
