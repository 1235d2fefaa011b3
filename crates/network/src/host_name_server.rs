//! The host's DNS server for machines: the server that the host's resolver asks for names below the
//! machines' domains. Every running machine answers for all machines of the user, at one port that
//! they share.

use std::{io, net::SocketAddr, path::Path, sync::Arc};

use container_machine::{DnsDomain, MachineAddress, RESOLVED_DIRECTORY, domains_of_server};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, RecordType, rdata::A},
};
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;

use crate::{
    name_server::{TIME_TO_LIVE, reply_to},
    peers::PeerNetwork,
};

/// Size of the buffer for a query.
const BUFFER_SIZE: usize = 4096;

/// Serves at this address until it is cancelled. A failure is logged and not returned, because
/// machines are usable without host names.
pub(crate) async fn serve(server: SocketAddr, peers: Arc<PeerNetwork>) {
    if let Err(error) = answer_all(server, &peers).await {
        tracing::warn!("cannot answer the host's DNS queries at {server}: {error}");
    }
}

async fn answer_all(server: SocketAddr, peers: &PeerNetwork) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM, None)?;
    // Only processes of one user can share a port (socket(7), SO_REUSEPORT).
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&server.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // The error belongs to an earlier reply, whose receiver is gone.
            Err(error) => {
                tracing::debug!("cannot receive a DNS query of the host: {error}");
                continue;
            }
        };
        let domains = domains_of_server(server, Path::new(RESOLVED_DIRECTORY));
        let machine = |id: &str| MachineAddress::from_guest(peers.address_of(id)?);
        if let Some(reply) = answer(&buffer[..length], &domains, machine)
            && let Err(error) = socket.send_to(&reply, from).await
        {
            tracing::debug!("cannot send a DNS reply to {from}: {error}");
        }
    }
}

/// Returns the reply to a message; `None` when it is not a query. Names outside of `domains` are
/// refused, because other servers answer for them.
pub(crate) fn answer(
    message: &[u8],
    domains: &[DnsDomain],
    machine: impl Fn(&str) -> Option<MachineAddress>,
) -> Option<Vec<u8>> {
    let query = Message::from_vec(message).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let [question] = &query.queries[..] else {
        return reply_to(&query, ResponseCode::FormErr).to_vec().ok();
    };
    let name = question.name().to_ascii().to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    let is_in_domain = |domain: &DnsDomain| {
        let domain = domain.to_string();
        name == domain
            || name
                .strip_suffix(&domain)
                .is_some_and(|it| it.ends_with('.'))
    };
    if !domains.iter().any(is_in_domain) {
        return reply_to(&query, ResponseCode::Refused).to_vec().ok();
    }
    let is_domain = domains.iter().any(|domain| domain.to_string() == name);
    let mut labels = domains.iter().filter_map(|domain| domain.label_of(name));
    let Some(address) = labels.find_map(machine) else {
        // The domain itself exists, but has no addresses.
        let code = if is_domain {
            ResponseCode::NoError
        } else {
            ResponseCode::NXDomain
        };
        return reply_to(&query, code).to_vec().ok();
    };
    let mut reply = reply_to(&query, ResponseCode::NoError);
    reply.metadata.authoritative = true;
    if matches!(question.query_type(), RecordType::A | RecordType::ANY) {
        let data = RData::A(A(address.host()));
        let name = question.name().clone();
        reply.add_answer(Record::from_rdata(name, TIME_TO_LIVE, data));
    }
    reply.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use hickory_proto::{op::Query, rr::Name};

    use super::*;

    #[test]
    fn machines_are_found_below_the_domains() {
        let domains: Vec<DnsDomain> = ["machine", "dev.example"]
            .map(|domain| domain.parse().unwrap())
            .into();
        let own = MachineAddress::from_index(7);
        let ask = |name: &str, kind: RecordType| {
            let mut question = Message::query();
            question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            let machine = |id: &str| (id == "web").then_some(own);
            let answer = answer(&question.to_vec().unwrap(), &domains, machine).unwrap();
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(answer.metadata.id, question.metadata.id);
            let data = answer.answers.first().map(|record| record.data.clone());
            (answer.metadata.response_code, data)
        };
        let found = Some(RData::A(A(own.host())));
        for name in ["web.machine.", "WEB.Machine.", "web.dev.example."] {
            assert_eq!(
                ask(name, RecordType::A),
                (ResponseCode::NoError, found.clone())
            );
        }
        assert_eq!(
            ask("web.machine.", RecordType::AAAA),
            (ResponseCode::NoError, None)
        );
        assert_eq!(
            ask("machine.", RecordType::A),
            (ResponseCode::NoError, None)
        );
        for name in ["db.machine.", "x.web.machine."] {
            assert_eq!(ask(name, RecordType::A), (ResponseCode::NXDomain, None));
        }
        for name in ["web.", "web.example.", "webmachine."] {
            assert_eq!(ask(name, RecordType::A), (ResponseCode::Refused, None));
        }
        assert_eq!(answer(b"nonsense", &domains, |_| None), None);
    }
}
