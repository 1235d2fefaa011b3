//! The gateway's DHCPv6 server (RFC 8415). Like the one of IPv4, it leases the machine's own
//! address to the machine's own card.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use container_machine::MachineAddress;
use dhcproto::{
    Decoder, Encodable,
    v6::{
        CLIENT_PORT, DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, IATA, Message, MessageType,
        OptionCode, SERVER_PORT, Status, StatusCode,
    },
};

use crate::{
    address::{GATEWAY, GATEWAY_LINK_LOCAL, GATEWAY6, ipv6_address, mac_address},
    dhcp::names,
    packet::{Datagram, Packet},
};

/// Lifetime in seconds of everything that the server hands out: infinite (RFC 8415, 7.7).
const LIFETIME: u32 = u32::MAX;

/// Limit of identity associations in one request. A client has one, rarely two.
const MAX_ASSOCIATIONS: usize = 8;

/// The fields of a request that the server uses.
struct Request {
    kind: MessageType,
    transaction: [u8; 3],
    client: Option<Vec<u8>>,
    server: Option<Vec<u8>>,
    associations: Vec<Association>,
    rapid_commit: bool,
}

/// An identity association: a set of addresses or prefixes that a client asks for.
enum Association {
    Addresses { id: u32 },
    TemporaryAddresses { id: u32 },
    Prefixes { id: u32 },
}

/// Answers a DHCPv6 request of the machine with its address and these search domains. Returns the
/// packet for the guest; `None` for other packets, and for requests that need no answer.
pub(crate) fn answer(
    packet: &Packet<'_>,
    address: MachineAddress,
    search: impl FnOnce() -> Vec<String>,
) -> Option<Vec<u8>> {
    let datagram = Datagram::parse(packet)?;
    let IpAddr::V6(client) = datagram.source.ip() else {
        return None;
    };
    if datagram.destination.port() != SERVER_PORT || !client.is_unicast_link_local() {
        return None;
    }
    let request = Request::parse(&datagram.payload)?;
    let reply = request.reply(ipv6_address(address.guest()), search)?;
    Datagram {
        source: (GATEWAY_LINK_LOCAL, SERVER_PORT).into(),
        destination: SocketAddr::new(client.into(), CLIENT_PORT),
        payload: reply.to_vec().ok()?,
    }
    .to_packet()
}

/// Returns the server's DUID: link-layer address (RFC 8415, 11.4), Ethernet.
fn server_id() -> Vec<u8> {
    [&[0, 3, 0, 1][..], &mac_address(GATEWAY)].concat()
}

impl Request {
    /// Parses a request. Only the options that are used are decoded: the crate's decoder of all of
    /// them subtracts lengths unchecked, and recurses as deep as options are nested.
    fn parse(bytes: &[u8]) -> Option<Request> {
        let mut decoder = Decoder::new(bytes);
        let mut request = Request {
            kind: decoder.read_u8().ok()?.into(),
            transaction: decoder.read::<3>().ok()?,
            client: None,
            server: None,
            associations: Vec::new(),
            rapid_commit: false,
        };
        while !decoder.buffer().is_empty() {
            let code = OptionCode::from(decoder.read_u16().ok()?);
            let length = decoder.read_u16().ok()?;
            let data = decoder.read_slice(length.into()).ok()?;
            let id = || Decoder::new(data).read_u32().ok();
            match code {
                OptionCode::ClientId => request.client = Some(data.to_vec()),
                OptionCode::ServerId => request.server = Some(data.to_vec()),
                OptionCode::RapidCommit => request.rapid_commit = true,
                OptionCode::IANA => request.add(Association::Addresses { id: id()? })?,
                OptionCode::IATA => request.add(Association::TemporaryAddresses { id: id()? })?,
                OptionCode::IAPD => request.add(Association::Prefixes { id: id()? })?,
                _ => {}
            }
        }
        Some(request)
    }

    fn add(&mut self, association: Association) -> Option<()> {
        self.associations.push(association);
        (self.associations.len() <= MAX_ASSOCIATIONS).then_some(())
    }

    /// Returns the kind of the answer; `None` if the request needs none.
    fn answer_kind(&self) -> Option<MessageType> {
        let is_for_us = self.server.as_ref().is_some_and(|it| *it == server_id());
        let is_identified = self.client.is_some();
        match self.kind {
            MessageType::Solicit if is_identified && self.rapid_commit => Some(MessageType::Reply),
            MessageType::Solicit if is_identified => Some(MessageType::Advertise),
            MessageType::Confirm | MessageType::Rebind if is_identified => Some(MessageType::Reply),
            MessageType::Request
            | MessageType::Renew
            | MessageType::Release
            | MessageType::Decline
                if is_identified && is_for_us =>
            {
                Some(MessageType::Reply)
            }
            MessageType::InformationRequest if self.server.is_none() || is_for_us => {
                Some(MessageType::Reply)
            }
            _ => None,
        }
    }

    fn reply(&self, address: Ipv6Addr, search: impl FnOnce() -> Vec<String>) -> Option<Message> {
        let mut reply = Message::new_with_id(self.answer_kind()?, self.transaction);
        let options = reply.opts_mut();
        options.insert(DhcpOption::ServerId(server_id()));
        if let Some(client) = &self.client {
            options.insert(DhcpOption::ClientId(client.clone()));
        }
        match self.kind {
            MessageType::Release | MessageType::Decline | MessageType::Confirm => {
                options.insert(DhcpOption::StatusCode(status(Status::Success)));
                return Some(reply);
            }
            MessageType::Solicit if self.rapid_commit => options.insert(DhcpOption::RapidCommit),
            _ => {}
        }
        let mut is_leased = false;
        for association in &self.associations {
            // One lease: a second association of addresses gets none.
            let is_first = !is_leased && matches!(association, Association::Addresses { .. });
            is_leased |= is_first;
            options.insert(association.answer(is_first.then_some(address)));
        }
        options.insert(DhcpOption::DomainNameServers(vec![GATEWAY6]));
        let search = names(&search());
        if !search.is_empty() {
            options.insert(DhcpOption::DomainSearchList(search));
        }
        Some(reply)
    }
}

impl Association {
    /// Returns the option that leases `address`, or reports that there is none.
    fn answer(&self, address: Option<Ipv6Addr>) -> DhcpOption {
        let mut opts = DhcpOptions::new();
        match (self, address) {
            (_, Some(addr)) => opts.insert(DhcpOption::IAAddr(IAAddr {
                addr,
                preferred_life: LIFETIME,
                valid_life: LIFETIME,
                opts: DhcpOptions::new(),
            })),
            (Association::Prefixes { .. }, None) => {
                opts.insert(DhcpOption::StatusCode(status(Status::NoPrefixAvail)));
            }
            (_, None) => opts.insert(DhcpOption::StatusCode(status(Status::NoAddrsAvail))),
        }
        match *self {
            Association::Addresses { id } => DhcpOption::IANA(IANA {
                id,
                t1: LIFETIME,
                t2: LIFETIME,
                opts,
            }),
            Association::TemporaryAddresses { id } => DhcpOption::IATA(IATA { id, opts }),
            Association::Prefixes { id } => DhcpOption::IAPD(IAPD {
                id,
                t1: LIFETIME,
                t2: LIFETIME,
                opts,
            }),
        }
    }
}

fn status(status: Status) -> StatusCode {
    StatusCode {
        status,
        msg: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use dhcproto::Decodable;

    use super::*;

    fn own() -> MachineAddress {
        MachineAddress::from_index(7)
    }

    fn request(kind: MessageType, options: Vec<DhcpOption>) -> Vec<u8> {
        let mut request = Message::new_with_id(kind, [1, 2, 3]);
        for option in options {
            request.opts_mut().insert(option);
        }
        request.to_vec().unwrap()
    }

    fn ask(payload: Vec<u8>) -> Option<Message> {
        let datagram = Datagram {
            source: "[fe80::7]:546".parse().unwrap(),
            destination: "[ff02::1:2]:547".parse().unwrap(),
            payload,
        };
        let packet = datagram.to_packet().unwrap();
        let search = || vec!["corp.test".to_owned()];
        let reply = answer(&Packet::parse(&packet).unwrap(), own(), search)?;
        let reply = Datagram::parse(&Packet::parse(&reply).unwrap()).unwrap();
        assert_eq!(reply.destination, datagram.source);
        Some(Message::from_bytes(&reply.payload).unwrap())
    }

    fn client() -> DhcpOption {
        DhcpOption::ClientId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 7])
    }

    fn addresses() -> DhcpOption {
        DhcpOption::IANA(IANA {
            id: 5,
            t1: 0,
            t2: 0,
            opts: DhcpOptions::new(),
        })
    }

    fn leased(reply: &Message) -> Option<Ipv6Addr> {
        let Some(DhcpOption::IANA(association)) = reply.opts().get(OptionCode::IANA) else {
            return None;
        };
        assert_eq!(association.id, 5);
        match association.opts.get(OptionCode::IAAddr) {
            Some(DhcpOption::IAAddr(address)) => Some(address.addr),
            _ => None,
        }
    }

    #[test]
    fn the_machines_address_is_advertised_and_leased() {
        let wanted = Some(ipv6_address(own().guest()));
        let advertised = ask(request(MessageType::Solicit, vec![client(), addresses()])).unwrap();
        assert_eq!(advertised.msg_type(), MessageType::Advertise);
        assert_eq!(leased(&advertised), wanted);
        let server = advertised.opts().get(OptionCode::ServerId).unwrap().clone();
        let options = vec![client(), server, addresses()];
        let leasing = ask(request(MessageType::Request, options.clone())).unwrap();
        assert_eq!(leasing.msg_type(), MessageType::Reply);
        assert_eq!(leased(&leasing), wanted);
        assert_eq!(
            leased(&ask(request(MessageType::Renew, options)).unwrap()),
            wanted
        );
        let information = ask(request(MessageType::InformationRequest, vec![])).unwrap();
        let servers = DhcpOption::DomainNameServers(vec![GATEWAY6]);
        let found = information.opts().get(OptionCode::DomainNameServers);
        assert_eq!(found, Some(&servers));
        assert!(
            information
                .opts()
                .get(OptionCode::DomainSearchList)
                .is_some()
        );
    }

    #[test]
    fn requests_for_other_servers_are_ignored() {
        let other = DhcpOption::ServerId(vec![0, 1, 2]);
        let options = vec![client(), other, addresses()];
        assert_eq!(ask(request(MessageType::Request, options)), None);
        assert_eq!(
            ask(request(MessageType::Solicit, vec![addresses()])),
            None,
            "no client id"
        );
        assert_eq!(ask(request(MessageType::Reply, vec![client()])), None);
    }

    #[test]
    fn invalid_requests_are_ignored() {
        let valid = request(MessageType::Solicit, vec![client(), addresses()]);
        for length in 0..valid.len() {
            let _ = ask(valid[..length].to_vec());
        }
        // An association of two bytes, a truncated option, half an option header.
        for options in [&[0, 3, 0, 2, 0, 0][..], &[0, 1, 0, 9, 1], &[0, 1, 0]] {
            let message = [&[1, 1, 2, 3], options].concat();
            assert_eq!(ask(message), None, "{options:?}");
        }
        // A vendor class and a status code that are too short for the crate's own decoder.
        let short = [&valid[..], &[0, 16, 0, 0], &[0, 13, 0, 0]].concat();
        assert!(ask(short).is_some());
        // Relayed messages, nested as deep as a packet allows.
        let mut nested = Vec::new();
        for _ in 0..1500 {
            let mut outer = vec![12; 34];
            outer.extend([0, 9]);
            outer.extend(u16::try_from(nested.len()).unwrap().to_be_bytes());
            outer.extend(&nested);
            nested = outer;
        }
        assert_eq!(ask(nested), None);
    }
}
