//! The gateway's DHCP server (RFC 2131). It has one lease, the machine's own address, and offers it
//! to the machine's own card: the agent has set the same address, so a client in the image changes
//! nothing.

use std::net::Ipv4Addr;

use container_machine::MachineAddress;
use dhcproto::{
    Encodable,
    v4::{
        CLIENT_PORT, DhcpOption, HType, Message, MessageType, Opcode, OptionCode, SERVER_PORT,
        borrowed,
    },
};
use hickory_proto::rr::Name;

use crate::{
    address::{GATEWAY, NETMASK, mac_address},
    packet::{Datagram, Packet},
};

/// Lease time in seconds: infinite (RFC 2131, 3.3). A finite lease would end while the host sleeps.
const LEASE_TIME: u32 = u32::MAX;

/// The fields of a request that the server uses.
struct Request<'a> {
    message: borrowed::Message<'a>,
    kind: MessageType,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

/// Answers a DHCP request of the machine with its address and these search domains. Returns the
/// packet for the guest; `None` for other packets, and for requests that need no answer.
pub(crate) fn answer(
    packet: &Packet<'_>,
    address: MachineAddress,
    search: impl FnOnce() -> Vec<String>,
) -> Option<Vec<u8>> {
    let datagram = Datagram::parse(packet)?;
    if datagram.destination.port() != SERVER_PORT {
        return None;
    }
    let request = Request::parse(&datagram.payload, address)?;
    let kind = request.answer_kind(address)?;
    let reply = request.reply(kind, address, search);
    Datagram {
        source: (GATEWAY, SERVER_PORT).into(),
        destination: (request.reply_address(kind, address), CLIENT_PORT).into(),
        payload: reply.to_vec().ok()?,
    }
    .to_packet()
}

impl<'a> Request<'a> {
    /// Parses a request of the machine's own card. A container that is bridged to the card has
    /// another MAC address: the machine's lease is not for it.
    fn parse(bytes: &'a [u8], address: MachineAddress) -> Option<Request<'a>> {
        let message = borrowed::Message::new(bytes).ok()?;
        let mac = mac_address(address.guest());
        // The length comes first: `chaddr` panics at one beyond the message.
        if message.opcode() != Opcode::BootRequest
            || message.htype() != HType::Eth
            || usize::from(message.hlen()) != mac.len()
            || message.chaddr() != mac
        {
            return None;
        }
        let (mut kind, mut requested, mut server) = (None, None, None);
        for option in message.opts() {
            match option.code() {
                OptionCode::MessageType => {
                    let &[number] = option.data() else {
                        return None;
                    };
                    kind = Some(MessageType::from(number));
                }
                OptionCode::RequestedIpAddress => requested = Some(ipv4(option.data())?),
                OptionCode::ServerIdentifier => server = Some(ipv4(option.data())?),
                _ => {}
            }
        }
        Some(Request {
            message,
            kind: kind?,
            requested,
            server,
        })
    }

    /// Returns the kind of the answer; `None` if the request needs none.
    fn answer_kind(&self, address: MachineAddress) -> Option<MessageType> {
        match self.kind {
            MessageType::Discover => Some(MessageType::Offer),
            MessageType::Inform => Some(MessageType::Ack),
            // For another server.
            MessageType::Request if self.server.is_some_and(|it| it != GATEWAY) => None,
            MessageType::Request => {
                let current = Some(self.message.ciaddr()).filter(|it| !it.is_unspecified());
                Some(match self.requested.or(current)? {
                    wanted if wanted == address.guest() => MessageType::Ack,
                    _ => MessageType::Nak,
                })
            }
            _ => None,
        }
    }

    fn reply(
        &self,
        kind: MessageType,
        address: MachineAddress,
        search: impl FnOnce() -> Vec<String>,
    ) -> Message {
        let mut reply = Message::default();
        reply
            .set_opcode(Opcode::BootReply)
            .set_htype(HType::Eth)
            .set_xid(self.message.xid())
            .set_flags(self.message.flags())
            .set_giaddr(self.message.giaddr())
            .set_chaddr(self.message.chaddr());
        let options = reply.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(GATEWAY));
        if kind == MessageType::Nak {
            return reply;
        }
        options.insert(DhcpOption::SubnetMask(NETMASK));
        options.insert(DhcpOption::Router(vec![GATEWAY]));
        options.insert(DhcpOption::DomainNameServer(vec![GATEWAY]));
        let search = search();
        if let Some(domain) = search.first() {
            options.insert(DhcpOption::DomainName(domain.clone()));
            options.insert(DhcpOption::DomainSearch(names(&search)));
        }
        // A client that informs has an address already (RFC 2131, 4.3.5).
        if self.kind != MessageType::Inform {
            options.insert(DhcpOption::AddressLeaseTime(LEASE_TIME));
            reply.set_yiaddr(address.guest());
        }
        reply.set_ciaddr(self.message.ciaddr());
        reply
    }

    /// Returns the destination of the reply (RFC 2131, 4.1).
    fn reply_address(&self, kind: MessageType, address: MachineAddress) -> Ipv4Addr {
        let current = self.message.ciaddr();
        if kind == MessageType::Nak {
            Ipv4Addr::BROADCAST
        } else if !current.is_unspecified() {
            current
        } else if self.message.flags().broadcast() {
            Ipv4Addr::BROADCAST
        } else {
            address.guest()
        }
    }
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(bytes).ok()?.into())
}

/// Returns the domains that are valid names.
pub(crate) fn names(domains: &[String]) -> Vec<Name> {
    domains
        .iter()
        .filter_map(|domain| {
            let mut name = Name::from_ascii(domain).ok()?;
            name.set_fqdn(true);
            (!name.is_root()).then_some(name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use dhcproto::{Decodable, v4::Flags};

    use super::*;

    fn own() -> MachineAddress {
        MachineAddress::from_index(7)
    }

    fn request(options: Vec<DhcpOption>) -> Message {
        let mut request = Message::default();
        request.set_chaddr(&mac_address(own().guest()));
        for option in options {
            request.opts_mut().insert(option);
        }
        request
    }

    /// Returns the server's reply and its destination.
    fn ask_with(payload: Vec<u8>) -> Option<(Message, Ipv4Addr)> {
        let datagram = Datagram {
            source: (Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into(),
            destination: (Ipv4Addr::BROADCAST, SERVER_PORT).into(),
            payload,
        };
        let packet = datagram.to_packet().unwrap();
        let search = || vec!["corp.test".to_owned(), "in valid".to_owned()];
        let reply = answer(&Packet::parse(&packet).unwrap(), own(), search)?;
        let reply = Datagram::parse(&Packet::parse(&reply).unwrap()).unwrap();
        let std::net::IpAddr::V4(to) = reply.destination.ip() else {
            panic!("an IPv6 address");
        };
        Some((Message::from_bytes(&reply.payload).unwrap(), to))
    }

    fn ask(request: &Message) -> Option<(Message, Ipv4Addr)> {
        ask_with(request.to_vec().unwrap())
    }

    #[test]
    fn the_machines_address_is_offered_and_acknowledged() {
        let (offer, to) = ask(&request(vec![DhcpOption::MessageType(
            MessageType::Discover,
        )]))
        .unwrap();
        assert!(offer.opts().has_msg_type(MessageType::Offer));
        assert_eq!(offer.yiaddr(), own().guest());
        assert_eq!(to, own().guest());
        let expected = DhcpOption::DomainName("corp.test".to_owned());
        assert_eq!(offer.opts().get(OptionCode::DomainName), Some(&expected));
        let mut wanted = request(vec![
            DhcpOption::MessageType(MessageType::Request),
            DhcpOption::RequestedIpAddress(own().guest()),
            DhcpOption::ServerIdentifier(GATEWAY),
        ]);
        wanted.set_flags(Flags::default().set_broadcast());
        let (ack, to) = ask(&wanted).unwrap();
        assert!(ack.opts().has_msg_type(MessageType::Ack));
        assert_eq!(to, Ipv4Addr::BROADCAST);
        // A renewal names the address only in `ciaddr`.
        let mut renewal = request(vec![DhcpOption::MessageType(MessageType::Request)]);
        renewal.set_ciaddr(own().guest());
        let (ack, _) = ask(&renewal).unwrap();
        assert!(ack.opts().has_msg_type(MessageType::Ack));
    }

    #[test]
    fn other_addresses_are_refused_and_other_clients_ignored() {
        let old = Ipv4Addr::new(192, 168, 1, 7);
        let (nak, to) = ask(&request(vec![
            DhcpOption::MessageType(MessageType::Request),
            DhcpOption::RequestedIpAddress(old),
        ]))
        .unwrap();
        assert!(nak.opts().has_msg_type(MessageType::Nak));
        assert!(nak.yiaddr().is_unspecified());
        assert_eq!(to, Ipv4Addr::BROADCAST);
        let elsewhere = request(vec![
            DhcpOption::MessageType(MessageType::Request),
            DhcpOption::ServerIdentifier(old),
        ]);
        assert_eq!(ask(&elsewhere), None);
        let mut bridged = request(vec![DhcpOption::MessageType(MessageType::Discover)]);
        bridged.set_chaddr(&[2, 9, 9, 9, 9, 9]);
        assert_eq!(ask(&bridged), None);
        let released = request(vec![DhcpOption::MessageType(MessageType::Release)]);
        assert_eq!(ask(&released), None);
    }

    #[test]
    fn invalid_requests_are_ignored() {
        let valid = request(vec![DhcpOption::MessageType(MessageType::Discover)]);
        let valid = valid.to_vec().unwrap();
        for length in 0..valid.len() {
            let _ = ask_with(valid[..length].to_vec());
        }
        assert_eq!(ask_with(valid[..239].to_vec()), None);
        // A hardware address that would end beyond the message.
        let mut long = valid[..240].to_vec();
        long[2] = 255;
        assert_eq!(ask_with(long), None);
        // Options of wrong lengths: a truncated one, and an address of three bytes.
        for options in [&[53, 200, 1][..], &[50, 3, 1, 2, 3], &[53, 0], &[81, 1, 0]] {
            let message = [&valid[..240], options].concat();
            assert_eq!(ask_with(message), None, "{options:?}");
        }
    }
}
