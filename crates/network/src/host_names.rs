//! The names of machines for the host's own programs: a name server that the host's resolver may be
//! told of. Every machine of one user answers for all of them, at one port that they share.

use std::{io, net::SocketAddr, path::Path, sync::Arc};

use container_machine::{DnsDomain, MachineAddress, NAME_SERVERS, domains_of};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, RecordType, rdata::A},
};
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;

use crate::{
    names::{TIME_TO_LIVE, reply},
    segment::Segment,
};

/// Answers at this address until it is dropped. Where that cannot be, machines are of use without.
pub async fn serve(server: SocketAddr, segment: Arc<Segment>) {
    if let Err(error) = answer_all(server, &segment).await {
        tracing::warn!("answering the host's questions for machines at {server}: {error}");
    }
}

async fn answer_all(server: SocketAddr, segment: &Segment) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM, None)?;
    // The kernel lets programs of one user share a port (socket(7), SO_REUSEPORT).
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&server.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer has come back.
            Err(error) => {
                tracing::debug!("the host's questions for machines: {error}");
                continue;
            }
        };
        let domains = domains_of(server, Path::new(NAME_SERVERS));
        let machine = |id: &str| MachineAddress::of_guest(segment.machine(id)?);
        if let Some(answer) = answer(&buffer[..length], &domains, machine)
            && let Err(error) = socket.send_to(&answer, from).await
        {
            tracing::debug!("an answer to {from}: {error}");
        }
    }
}

/// What a message is answered with; nothing where it is no question. Names that are not of these domains
/// are for other servers to answer.
fn answer(
    message: &[u8],
    domains: &[DnsDomain],
    machine: impl Fn(&str) -> Option<MachineAddress>,
) -> Option<Vec<u8>> {
    let question = Message::from_vec(message).ok()?;
    if question.metadata.message_type != MessageType::Query {
        return None;
    }
    let [query] = &question.queries[..] else {
        return reply(&question, ResponseCode::FormErr).to_vec().ok();
    };
    let name = query.name().to_string().to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    let is_ours = |domain: &DnsDomain| {
        let domain = domain.to_string();
        name == domain
            || name
                .strip_suffix(&domain)
                .is_some_and(|it| it.ends_with('.'))
    };
    if !domains.iter().any(is_ours) {
        return reply(&question, ResponseCode::Refused).to_vec().ok();
    }
    let is_domain = domains.iter().any(|domain| domain.to_string() == name);
    let mut labels = domains.iter().filter_map(|domain| domain.label_of(name));
    let code = match labels.find_map(machine) {
        Some(address) => {
            let mut answer = reply(&question, ResponseCode::NoError);
            answer.metadata.authoritative = true;
            if matches!(query.query_type(), RecordType::A | RecordType::ANY) {
                let data = RData::A(A(address.host()));
                answer.add_answer(Record::from_rdata(query.name().clone(), TIME_TO_LIVE, data));
            }
            return answer.to_vec().ok();
        }
        None if is_domain => ResponseCode::NoError,
        None => ResponseCode::NXDomain,
    };
    reply(&question, code).to_vec().ok()
}

#[cfg(test)]
mod tests {
    use hickory_proto::{op::Query, rr::Name};

    use super::*;

    #[test]
    fn machines_are_known_below_their_domains() {
        let domains: Vec<DnsDomain> = ["machine", "dev.example"]
            .map(|domain| domain.parse().unwrap())
            .into();
        let own = MachineAddress::numbered(7);
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
