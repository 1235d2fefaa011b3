//! The machine's name server: names of machines and of the host, what the host's `/etc/hosts` says,
//! and for all else the host's own name servers, asked anew as its configuration changes.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use container_protocol::Transport;
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
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
    packet::Datagram,
    segment::{GATEWAY, Segment, is_gateway, is_of_segment},
    tcp::Connecting,
};

/// The port of name servers (RFC 1035, section 4.2).
pub const PORT: u16 = 53;

/// What the host is called in a machine.
const HOST: &str = "host.container.internal";

/// The domain of machines.
const DOMAIN: &str = ".machine";

/// Questions that may be on their way.
const MOST: usize = 256;

/// How long one server is waited for; a resolver in the guest asks again after 5 s.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the next question over a stream is waited for.
const IDLE: Duration = Duration::from_secs(10);

/// How long an answer about this host is good, in seconds: it may change at any time.
pub const TIME_TO_LIVE: u32 = 1;

/// Answers the guest's questions.
pub struct NameServer {
    names: Arc<Names>,
    to_guest: mpsc::Sender<Vec<u8>>,
    free: Arc<Semaphore>,
}

struct Names {
    segment: Arc<Segment>,
    hosts: PathBuf,
    resolver: PathBuf,
}

impl NameServer {
    /// Packets for the guest go to `to_guest`.
    pub fn new(segment: Arc<Segment>, to_guest: mpsc::Sender<Vec<u8>>) -> NameServer {
        NameServer {
            names: Arc::new(Names {
                segment,
                hosts: PathBuf::from("/etc/hosts"),
                resolver: PathBuf::from("/etc/resolv.conf"),
            }),
            to_guest,
            free: Arc::new(Semaphore::new(MOST)),
        }
    }

    /// Answers a datagram that the guest has sent to the name server.
    pub fn ask(&self, question: Datagram) {
        let Ok(free) = Arc::clone(&self.free).try_acquire_owned() else {
            return;
        };
        let (names, to_guest) = (Arc::clone(&self.names), self.to_guest.clone());
        tokio::spawn(async move {
            let payload = names.answer(&question.payload, Transport::Udp).await;
            drop(free);
            let answer = payload.map(|payload| Datagram {
                source: question.destination,
                destination: question.source,
                payload,
            });
            if let Some(packet) = answer.and_then(|answer| answer.packet()) {
                let _ = to_guest.send(packet).await;
            }
        });
    }

    /// A stream to ask over.
    pub fn connect(&self) -> Connecting {
        let names = Arc::clone(&self.names);
        Box::pin(async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let (asking, accepted) = tokio::try_join!(
                TcpStream::connect(listener.local_addr()?),
                listener.accept()
            )?;
            let (answering, from) = accepted;
            if from != asking.local_addr()? {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            tokio::spawn(async move {
                if let Err(error) = names.answer_all(answering).await {
                    tracing::debug!("questions over a stream: {error}");
                }
            });
            Ok(asking)
        })
    }
}

impl Names {
    /// Answers what is asked over a stream, where a length comes before each message (RFC 1035, section
    /// 4.2.2), until there are no more questions for a while.
    async fn answer_all(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let question = timeout(IDLE, read_message(&mut stream)).await??;
            let Some(answer) = self.answer(&question, Transport::Tcp).await else {
                return Ok(());
            };
            write_message(&mut stream, &answer).await?;
        }
    }

    /// What a message is answered with; nothing where it is no question.
    async fn answer(&self, message: &[u8], over: Transport) -> Option<Vec<u8>> {
        let question = Message::from_vec(message).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        if let Some(answer) = self.own_answer(&question) {
            return answer.to_vec().ok();
        }
        for server in self.servers() {
            let forwarded = async {
                match over {
                    Transport::Tcp => forward_over_stream(message, server).await,
                    Transport::Udp => forward(message, server).await,
                }
            };
            match timeout(PATIENCE, forwarded).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!("the name server {server}: {error}"),
                Err(_) => tracing::debug!("the name server {server} does not answer"),
            }
        }
        let failed = reply(&question, ResponseCode::ServFail);
        failed.to_vec().ok()
    }

    /// The answer, if the question is for this side of the host to answer.
    fn own_answer(&self, question: &Message) -> Option<Message> {
        let [query] = &question.queries[..] else {
            return None;
        };
        let name = query.name().to_string().to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        let mut answer = reply(question, ResponseCode::NoError);
        answer.metadata.authoritative = true;
        if let Some(address) = reversed(name).filter(|it| is_of_segment((*it).into())) {
            match self.name_of(address) {
                Some(name) if matches!(query.query_type(), RecordType::PTR | RecordType::ANY) => {
                    let data = RData::PTR(PTR(Name::from_ascii(name).ok()?));
                    answer.add_answer(Record::from_rdata(query.name().clone(), TIME_TO_LIVE, data));
                }
                Some(_) => {}
                None => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            return Some(answer);
        }
        let addresses = self.addresses(name)?;
        for address in addresses {
            let data = match (address, query.query_type()) {
                (IpAddr::V4(address), RecordType::A | RecordType::ANY) => RData::A(A(address)),
                (IpAddr::V6(address), RecordType::AAAA | RecordType::ANY) => {
                    RData::AAAA(AAAA(address))
                }
                _ => continue,
            };
            answer.add_answer(Record::from_rdata(query.name().clone(), TIME_TO_LIVE, data));
        }
        if answer.answers.is_empty() && name.ends_with(DOMAIN) && self.addresses(name)?.is_empty() {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        Some(answer)
    }

    /// The name of whoever has this address of the machines' network.
    fn name_of(&self, address: Ipv4Addr) -> Option<String> {
        if is_gateway(address.into()) {
            return Some(format!("{HOST}."));
        }
        let machine = self.segment.name(address)?;
        Some(format!("{machine}{DOMAIN}."))
    }

    /// What this host says of a name; none if it has nothing to say, nothing in it if there is no such
    /// machine.
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        if name == HOST {
            return Some(vec![GATEWAY.into()]);
        }
        // Whoever asks means itself (RFC 6761, section 6.3).
        if name == "localhost" || name.ends_with(".localhost") {
            return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let machine = name.strip_suffix(DOMAIN);
        if let Some(address) = self.segment.machine(machine.unwrap_or(name)) {
            return Some(vec![address.into()]);
        }
        if machine.is_some() {
            return Some(Vec::new());
        }
        let of_hosts = named(&read(&self.hosts), name);
        (!of_hosts.is_empty()).then_some(of_hosts)
    }

    fn servers(&self) -> Vec<SocketAddr> {
        servers(&read(&self.resolver))
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// An answer without an address.
pub fn reply(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::error_msg(question.metadata.id, OpCode::Query, code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.queries.clone_from(&question.queries);
    answer
}

async fn forward(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 65536];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // The same question's: its number comes first.
        if buffer.get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn forward_over_stream(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, question).await?;
    read_message(&mut stream).await
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes()[..], message].concat())
        .await
}

/// The address that a name asks the name of (RFC 1035, section 3.5).
fn reversed(name: &str) -> Option<Ipv4Addr> {
    let mut octets: Vec<&str> = name.strip_suffix(".in-addr.arpa")?.split('.').collect();
    octets.reverse();
    octets.join(".").parse().ok()
}

/// The addresses that a `hosts` file (hosts(5)) gives a name. Those on the host's loopback mean
/// another thing in a machine, and are left out.
fn named(hosts: &str, name: &str) -> Vec<IpAddr> {
    let lines = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let mut found = Vec::new();
    for line in lines {
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        if !address.is_loopback() && words.any(|word| word.eq_ignore_ascii_case(name)) {
            found.push(address);
        }
    }
    found
}

/// The servers of a `resolv.conf` (resolv.conf(5)).
fn servers(configuration: &str) -> Vec<SocketAddr> {
    let lines = configuration.lines().map(str::split_whitespace);
    let servers = lines.filter_map(|mut words| {
        let is_server = words.next() == Some("nameserver");
        let address: IpAddr = words.next().filter(|_| is_server)?.parse().ok()?;
        Some(SocketAddr::new(address, PORT))
    });
    servers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_names_that_ask_for_names() {
        let address = Ipv4Addr::new(198, 19, 2, 1);
        assert_eq!(reversed("1.2.19.198.in-addr.arpa"), Some(address));
        for other in ["2.19.198.in-addr.arpa", "1.2.19.198", "x.in-addr.arpa", ""] {
            assert_eq!(reversed(other), None, "{other}");
        }
    }

    #[test]
    fn files_of_the_host_are_read_as_resolvers_read_them() {
        let hosts =
            "127.0.0.1 localhost dev\n192.0.2.7\tDB.corp db # the database\n::1 db\n# 1.1.1.1 x\n";
        assert_eq!(named(hosts, "db"), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(named(hosts, "db.corp").len(), 1);
        assert!(named(hosts, "dev").is_empty());
        assert!(named(hosts, "x").is_empty());
        let resolver = "# c\nnameserver 10.0.0.1\nsearch corp\nnameserver ::1\nnameserver nonsense\noptions x\n";
        let expected: [SocketAddr; 2] =
            ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(servers(resolver), expected);
    }
}
