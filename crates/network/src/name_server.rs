//! The guest's DNS server, at the gateway's port 53.
//!
//! It answers for machines, for the host and for names in the host's `/etc/hosts`. All other
//! queries are forwarded to the host's own name servers. The host's files are read for each query,
//! so a change of the host's network is followed at once.
//!
//! The addresses in all answers are pinned to the names that were asked for, because the egress
//! rules are about names. Names that the rules refuse are neither answered nor forwarded.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use container_protocol::Transport;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::{
    address::{GATEWAY, is_gateway, is_in_machine_network},
    connection::HostConnect,
    first_bytes::normalized,
    gate::{Gate, Lookup},
    host_resolver::{HostResolver, RESOLV_CONF},
    packet::Datagram,
    peers::PeerNetwork,
};

/// Names of the host in a machine: ours, and those of Docker and podman, which are in many
/// configurations of development servers.
const HOST_NAMES: [&str; 3] = [
    "host.container.internal",
    "host.docker.internal",
    "host.containers.internal",
];

/// Suffix of machines' names.
const MACHINE_SUFFIX: &str = ".machine";

/// Limit of UDP queries that are being answered. More are dropped, and the guest retries.
const MAX_PENDING: usize = 256;

/// Timeout of one upstream server. A resolver in the guest retries after 5 s, so two servers can be
/// tried before.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after which an idle TCP connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// TTL of answers about machines and the host, in seconds. They can change at any time.
pub(crate) const TIME_TO_LIVE: u32 = 1;

/// The guest's DNS server.
pub(crate) struct NameServer {
    resolver: Arc<Resolver>,
    to_guest: mpsc::Sender<Vec<u8>>,
    permits: Arc<Semaphore>,
}

/// The sources of answers.
struct Resolver {
    peers: Arc<PeerNetwork>,
    gate: Arc<Gate>,
    hosts_file: PathBuf,
    resolv_conf: PathBuf,
}

impl NameServer {
    /// Creates a server whose replies over UDP are sent to `to_guest`.
    pub(crate) fn new(
        peers: Arc<PeerNetwork>,
        gate: Arc<Gate>,
        to_guest: mpsc::Sender<Vec<u8>>,
    ) -> NameServer {
        NameServer {
            resolver: Arc::new(Resolver {
                peers,
                gate,
                hosts_file: PathBuf::from("/etc/hosts"),
                resolv_conf: PathBuf::from(RESOLV_CONF),
            }),
            to_guest,
            permits: Arc::new(Semaphore::new(MAX_PENDING)),
        }
    }

    /// Answers a query over UDP.
    pub(crate) fn ask(&self, query: Datagram) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return;
        };
        let (resolver, to_guest) = (Arc::clone(&self.resolver), self.to_guest.clone());
        tokio::spawn(async move {
            let payload = resolver.answer(&query.payload, Transport::Udp).await;
            drop(permit);
            let reply = payload.map(|payload| Datagram {
                source: query.destination,
                destination: query.source,
                payload,
            });
            if let Some(packet) = reply.and_then(|reply| reply.to_packet()) {
                let _ = to_guest.send(packet).await;
            }
        });
    }

    /// Opens a stream for queries over TCP. It is a loopback connection of this process with
    /// itself, so that the guest's connection can be joined to it as to any other server.
    pub(crate) fn connect(&self) -> HostConnect {
        let resolver = Arc::clone(&self.resolver);
        Box::pin(async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let (client, accepted) = tokio::try_join!(
                TcpStream::connect(listener.local_addr()?),
                listener.accept()
            )?;
            let (server, from) = accepted;
            // Another program of the host may have connected to the port first.
            if from != client.local_addr()? {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            tokio::spawn(async move {
                if let Err(error) = resolver.serve_stream(server).await {
                    tracing::debug!("DNS over TCP ended: {error}");
                }
            });
            Ok(client)
        })
    }
}

impl Resolver {
    /// Answers queries over TCP, each with a length ahead of it (RFC 1035, section 4.2.2), until
    /// the stream ends or is idle.
    async fn serve_stream(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let query = timeout(IDLE_TIMEOUT, read_message(&mut stream)).await??;
            let Some(reply) = self.answer(&query, Transport::Tcp).await else {
                return Ok(());
            };
            write_message(&mut stream, &reply).await?;
        }
    }

    /// Returns the reply to a message; `None` when it is not a query.
    async fn answer(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let query = Message::from_vec(message).ok()?;
        if query.metadata.message_type != MessageType::Query {
            return None;
        }
        if let Some(code) = self.refusal(&query) {
            return reply_to(&query, code).to_vec().ok();
        }
        if let Some(reply) = self.local_reply(&query) {
            self.pin(&query, addresses_in(&query, &reply));
            return reply.to_vec().ok();
        }
        let message = if self.gate.is_open() {
            message
        } else {
            &plain_query(&query).to_vec().ok()?
        };
        for server in self.upstream_servers() {
            let forwarded = async {
                match transport {
                    Transport::Tcp => forward_over_tcp(message, server).await,
                    Transport::Udp => forward_over_udp(message, server).await,
                }
            };
            match timeout(UPSTREAM_TIMEOUT, forwarded).await {
                Ok(Ok(reply)) => {
                    if let Ok(parsed) = Message::from_vec(&reply) {
                        self.pin(&query, foreign_addresses_in(&query, &parsed));
                    }
                    return Some(reply);
                }
                Ok(Err(error)) => tracing::debug!("name server {server} failed: {error}"),
                Err(_) => tracing::debug!("name server {server} timed out"),
            }
        }
        let failure = reply_to(&query, ResponseCode::ServFail);
        failure.to_vec().ok()
    }

    /// Returns the code of the reply if the egress rules do not allow the query to be answered.
    ///
    /// A refused name does not exist for the guest: resolvers take `REFUSED` for a failure of the
    /// server, retry, and wait.
    fn refusal(&self, query: &Message) -> Option<ResponseCode> {
        if self.gate.is_open() {
            return None;
        }
        let [question] = &query.queries[..] else {
            return Some(ResponseCode::Refused);
        };
        if query.metadata.op_code != OpCode::Query || question.query_class() != DNSClass::IN {
            return Some(ResponseCode::Refused);
        }
        let name = asked_name(question);
        if is_answered_always(&name) {
            return None;
        }
        match self.gate.lookup(&name) {
            Lookup::Allowed => None,
            // With HTTPS and SVCB records, clients hide the server name or use HTTP/3. A query for
            // all types would return them too.
            Lookup::AddressesOnly => matches!(
                question.query_type(),
                RecordType::HTTPS | RecordType::SVCB | RecordType::ANY
            )
            .then_some(ResponseCode::NoError),
            Lookup::Refused => Some(ResponseCode::NXDomain),
        }
    }

    /// Pins the addresses of a reply to the name that was asked for.
    fn pin(&self, query: &Message, addresses: Vec<(IpAddr, Duration)>) {
        let [question] = &query.queries[..] else {
            return;
        };
        let name = asked_name(question);
        for (address, time_to_live) in addresses {
            self.gate.pin(&name, address, time_to_live);
            // Rules name a machine one way, and programs may name it another.
            if is_in_machine_network(address) && !is_gateway(address) {
                let other = match name.strip_suffix(MACHINE_SUFFIX) {
                    Some(id) => id.to_owned(),
                    None => format!("{name}{MACHINE_SUFFIX}"),
                };
                self.gate.pin(&other, address, time_to_live);
            }
        }
    }

    /// Returns the reply if the query is about a machine, the host, or a name in the host's file.
    fn local_reply(&self, query: &Message) -> Option<Message> {
        let [question] = &query.queries[..] else {
            return None;
        };
        let kind = question.query_type();
        let name = question.name().to_ascii().to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        let record = |data| Record::from_rdata(question.name().clone(), TIME_TO_LIVE, data);
        let mut reply = reply_to(query, ResponseCode::NoError);
        reply.metadata.authoritative = true;
        if let Some(address) =
            reverse_address(name).filter(|it| is_in_machine_network((*it).into()))
        {
            match self.name_of(address) {
                Some(name) if matches!(kind, RecordType::PTR | RecordType::ANY) => {
                    let data = RData::PTR(PTR(Name::from_ascii(name).ok()?));
                    reply.add_answer(record(data));
                }
                Some(_) => {}
                None => reply.metadata.response_code = ResponseCode::NXDomain,
            }
            return Some(reply);
        }
        let addresses = self.addresses_of(name)?;
        // An existing name without addresses of the wanted type is not an error.
        if addresses.is_empty() {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        for address in addresses {
            let data = match (address, kind) {
                (IpAddr::V4(address), RecordType::A | RecordType::ANY) => RData::A(A(address)),
                (IpAddr::V6(address), RecordType::AAAA | RecordType::ANY) => {
                    RData::AAAA(AAAA(address))
                }
                _ => continue,
            };
            reply.add_answer(record(data));
        }
        Some(reply)
    }

    /// Returns the name of the machine or gateway with this address.
    fn name_of(&self, address: Ipv4Addr) -> Option<String> {
        if is_gateway(address.into()) {
            return Some(format!("{}.", HOST_NAMES[0]));
        }
        let id = self.peers.id_of(address)?;
        Some(format!("{id}{MACHINE_SUFFIX}."))
    }

    /// Returns the addresses of a name that is answered here: an empty list for a machine that does
    /// not run, `None` for a name that is to be forwarded.
    fn addresses_of(&self, name: &str) -> Option<Vec<IpAddr>> {
        if HOST_NAMES.contains(&name) {
            return Some(vec![GATEWAY.into()]);
        }
        // The guest's own loopback, not the host's (RFC 6761, section 6.3).
        if name == "localhost" || name.ends_with(".localhost") {
            return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let id = name.strip_suffix(MACHINE_SUFFIX);
        if let Some(address) = self.peers.address_of(id.unwrap_or(name)) {
            return Some(vec![address.into()]);
        }
        if id.is_some() {
            return Some(Vec::new());
        }
        let addresses = parse_hosts(&read_or_empty(&self.hosts_file), name);
        (!addresses.is_empty()).then_some(addresses)
    }

    fn upstream_servers(&self) -> Vec<SocketAddr> {
        HostResolver::read_from(&self.resolv_conf).servers
    }
}

fn read_or_empty(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Returns a reply to a query, without answers.
pub(crate) fn reply_to(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::error_msg(query.metadata.id, OpCode::Query, code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&query.queries);
    reply
}

/// Returns the query without everything that is not needed to answer it, so that it carries nothing
/// but a name that the rules allow.
fn plain_query(query: &Message) -> Message {
    let mut plain = Message::query();
    plain.metadata.id = query.metadata.id;
    plain.metadata.recursion_desired = query.metadata.recursion_desired;
    plain.metadata.authentic_data = query.metadata.authentic_data;
    plain.metadata.checking_disabled = query.metadata.checking_disabled;
    plain.queries.clone_from(&query.queries);
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(asked.max_payload());
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        plain.set_edns(edns);
    }
    plain
}

/// Returns the name of a question as rules are written: in lower case, without the last dot, and
/// with internationalized labels in their ASCII form.
fn asked_name(question: &Query) -> String {
    normalized(&question.name().to_ascii())
}

/// Whether a name is answered by ourselves, with nothing but the gateway's name or the guest's own
/// address.
fn is_answered_always(name: &str) -> bool {
    let is_gateway = reverse_address(name).is_some_and(|it| is_gateway(it.into()));
    is_gateway || name == "localhost" || name.ends_with(".localhost")
}

/// Returns the addresses of the name in a reply of another server. It must not give the host and
/// the machines names of its own.
fn foreign_addresses_in(query: &Message, reply: &Message) -> Vec<(IpAddr, Duration)> {
    let mut addresses = addresses_in(query, reply);
    addresses.retain(|(address, _)| !is_in_machine_network(*address));
    addresses
}

/// Returns the addresses of the name in a reply, also by way of aliases, and how long they may be
/// kept.
fn addresses_in(query: &Message, reply: &Message) -> Vec<(IpAddr, Duration)> {
    let [question] = &query.queries[..] else {
        return Vec::new();
    };
    let answers = &reply.answers;
    let mut names = vec![question.name()];
    // Each pass follows at least one alias.
    for _ in answers {
        let known = names.len();
        for answer in answers {
            if let RData::CNAME(alias) = &answer.data
                && names.iter().any(|name| answer.name == **name)
                && !names.iter().any(|name| **name == alias.0)
            {
                names.push(&alias.0);
            }
        }
        if names.len() == known {
            break;
        }
    }
    let is_named = |answer: &&Record| names.iter().any(|name| answer.name == **name);
    let addresses = answers.iter().filter(is_named).filter_map(|answer| {
        let address: IpAddr = match &answer.data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            _ => return None,
        };
        Some((address, Duration::from_secs(answer.ttl.into())))
    });
    addresses.collect()
}

async fn forward_over_udp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let unspecified: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((unspecified, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65536];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // The first two bytes are the id, which shows that the reply belongs to this query.
        if buffer.get(..2) == query.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn forward_over_tcp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    read_message(&mut stream).await
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    // One write, so that length and message are sent in one segment.
    stream
        .write_all(&[&length.to_be_bytes()[..], message].concat())
        .await
}

/// Parses a name for reverse lookup, such as `1.2.19.198.in-addr.arpa` (RFC 1035, section 3.5).
pub(crate) fn reverse_address(name: &str) -> Option<Ipv4Addr> {
    let mut octets: Vec<&str> = name.strip_suffix(".in-addr.arpa")?.split('.').collect();
    octets.reverse();
    octets.join(".").parse().ok()
}

/// Returns the addresses of a name in a `hosts` file (hosts(5)). Loopback addresses are skipped: in
/// the guest they would mean the guest.
pub(crate) fn parse_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let lines = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let mut addresses = Vec::new();
    for line in lines {
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        if !address.is_loopback() && words.any(|word| word.eq_ignore_ascii_case(name)) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::CNAME;

    use super::*;

    #[test]
    fn addresses_are_found_by_way_of_aliases() {
        let name = |name: &str| Name::from_ascii(name).unwrap();
        let record = |of: &str, ttl, data| Record::from_rdata(name(of), ttl, data);
        let address = |of, last| record(of, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, last))));
        let alias = |of, to| record(of, 60, RData::CNAME(CNAME(name(to))));
        let answers = [
            address("c.test.", 3),
            alias("b.test.", "c.test."),
            alias("A.test.", "b.test."),
            alias("c.test.", "a.test."),
            address("other.test.", 9),
            record("c.test.", 7, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
        ];
        let asked = |of: &str| {
            let mut query = Message::query();
            query.add_query(Query::query(name(of), RecordType::A));
            query
        };
        let mut reply = Message::query();
        reply.answers = answers.into();
        let found = addresses_in(&asked("a.TEST."), &reply);
        let expected = [
            ([192, 0, 2, 3].into(), Duration::from_secs(60)),
            (Ipv6Addr::LOCALHOST.into(), Duration::from_secs(7)),
        ];
        assert_eq!(found, expected);
        assert_eq!(addresses_in(&asked("z.test."), &reply), []);
        reply.add_answer(record("a.test.", 1, RData::A(A(GATEWAY))));
        assert_eq!(addresses_in(&asked("a.test."), &reply).len(), 3);
        let foreign = foreign_addresses_in(&asked("a.test."), &reply);
        assert_eq!(foreign, expected, "the gateway has no other name");
    }

    #[test]
    fn names_have_the_form_of_rules() {
        for (name, expected) in [
            ("Example.COM.", "example.com"),
            ("xn--bcher-kva.example.", "xn--bcher-kva.example"),
        ] {
            let question = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
            assert_eq!(asked_name(&question), expected);
        }
    }

    #[test]
    fn a_plain_query_carries_the_question_only() {
        let mut query = Message::query();
        let name = Name::from_ascii("www.example.com.").unwrap();
        query.add_query(Query::query(name.clone(), RecordType::TXT));
        query.metadata.id = 77;
        query.metadata.recursion_desired = true;
        query.metadata.authentic_data = true;
        let data = RData::A(A(Ipv4Addr::LOCALHOST));
        query.add_additional(Record::from_rdata(name, 1, data));
        let mut edns = Edns::new();
        edns.set_max_payload(1400);
        edns.set_dnssec_ok(true);
        query.set_edns(edns);
        let plain = plain_query(&query);
        assert_eq!(plain.queries, query.queries);
        assert_eq!(plain.metadata, query.metadata);
        assert!(plain.additionals.is_empty());
        assert_eq!(plain.edns, query.edns);
    }

    #[test]
    fn reverse_lookup_names_are_parsed() {
        let address = Ipv4Addr::new(198, 19, 2, 1);
        assert_eq!(reverse_address("1.2.19.198.in-addr.arpa"), Some(address));
        for other in ["2.19.198.in-addr.arpa", "1.2.19.198", "x.in-addr.arpa", ""] {
            assert_eq!(reverse_address(other), None, "{other}");
        }
    }

    #[test]
    fn the_hosts_files_are_parsed_as_resolvers_do() {
        let hosts =
            "127.0.0.1 localhost dev\n192.0.2.7\tDB.corp db # the database\n::1 db\n# 1.1.1.1 x\n";
        assert_eq!(
            parse_hosts(hosts, "db"),
            ["192.0.2.7".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(parse_hosts(hosts, "db.corp").len(), 1);
        assert!(parse_hosts(hosts, "dev").is_empty());
        assert!(parse_hosts(hosts, "x").is_empty());
    }
}
