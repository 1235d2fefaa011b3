//! What in the machine listens on the network, told to the host whenever it changes.
//!
//! The kernel lists its sockets by state (sock_diag(7)), which costs a fraction of a millisecond
//! however many connections there are: those that listen are kept apart. It is asked when
//! [`SocketEvents`] say that something may have changed, or, where the kernel has none, again and again.
//! Which program has a socket is looked up when it appears, and not again.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use container_protocol::{
    HostPort, Listener, Transport,
    frame::{self, FrameError},
    mux::{Opener, Stream},
};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{power, socket_events::SocketEvents};

/// How often the kernel is asked that does not say when something changes.
const INTERVAL: Duration = Duration::from_millis(400);

/// How often one is asked that does: an event may have been lost.
const SLOW_INTERVAL: Duration = Duration::from_secs(30);

/// What begins to listen does so before its event, and what ends after it: the kernel is asked at once, and
/// again when so much time has passed without another event.
const SETTLE: [Duration; 2] = [Duration::from_millis(40), Duration::from_millis(400)];

/// How long what has ceased to listen is still told of: a server that starts anew listens again by then, and
/// nobody on the host is to be refused meanwhile.
const LINGER: Duration = Duration::from_millis(30);

/// How much time is between two questions at least, as events seldom come alone.
const LEAST: Duration = Duration::from_millis(10);

/// The port on which a DHCP client hears its server (RFC 2131, section 4.1): nobody else's business.
const DHCP_CLIENT: u16 = 68;

/// Bytes of the kernel's answers that are taken at once.
const ANSWERS: usize = 32 << 10;

/// A socket that somebody listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Listening {
    transport: Transport,
    address: SocketAddr,
    inode: u32,
}

/// Tells the host what listens, until it is told to end by being dropped. Without it a machine is
/// still of use.
pub async fn tell(opener: Opener) {
    let told = async {
        let mut host = opener.open().await?;
        frame::write(&mut host, &HostPort::Listeners).await?;
        tell_changes(&mut host).await
    };
    if let Err(error) = told.await {
        power::say(&format!(
            "telling the host what listens in the machine: {error}"
        ));
    }
}

async fn tell_changes(host: &mut Stream) -> Result<(), FrameError> {
    let mut kernel = Kernel::ask_at().map_err(FrameError::from)?;
    let ephemeral = ephemeral_ports();
    let mut pace = Pace::new();
    let mut before = BTreeSet::new();
    let mut ended: HashMap<Listening, Instant> = HashMap::new();
    let mut names: HashMap<u32, String> = HashMap::new();
    loop {
        let mut now = kernel.listening().map_err(FrameError::from)?;
        // A port that the kernel chose is one that its program asks from.
        now.retain(|socket| {
            socket.transport == Transport::Tcp
                || !ephemeral.contains(&socket.address.port())
                || pace.was_asked_for(socket.address.port())
        });
        ended.retain(|socket, _| !now.contains(socket));
        let gone: Vec<Listening> = before.difference(&now).copied().collect();
        for socket in gone {
            let since = *ended.entry(socket).or_insert_with(Instant::now);
            if since.elapsed() < LINGER {
                now.insert(socket);
            } else {
                ended.remove(&socket);
            }
        }
        if now != before {
            let is_new = |socket: &Listening| !names.contains_key(&socket.inode);
            if now.iter().any(is_new) {
                names = programs(&now);
            }
            let listeners = now.iter().map(|socket| Listener {
                transport: socket.transport,
                address: socket.address,
                process: names
                    .get(&socket.inode)
                    .filter(|name| !name.is_empty())
                    .cloned(),
            });
            frame::write(host, &listeners.collect::<Vec<_>>()).await?;
            before = now;
        }
        pace.wait().await;
    }
}

/// When the kernel is to be asked again.
struct Pace {
    events: Option<SocketEvents>,
    asked: Instant,
    /// How often it was asked since the last event.
    settled: usize,
}

impl Pace {
    fn new() -> Pace {
        let events = SocketEvents::attach();
        if let Err(error) = &events {
            power::say(&format!(
                "this kernel does not tell what begins to listen ({error}): it is asked every {INTERVAL:?}"
            ));
        }
        Pace {
            events: events.ok(),
            asked: Instant::now(),
            settled: 0,
        }
    }

    async fn wait(&mut self) {
        let Some(events) = &mut self.events else {
            return sleep(INTERVAL).await;
        };
        let patience = SETTLE.get(self.settled).unwrap_or(&SLOW_INTERVAL);
        match timeout(*patience, events.next()).await {
            Ok(Ok(())) => {
                sleep_until(self.asked + LEAST).await;
                self.settled = 0;
            }
            Ok(Err(error)) => {
                power::say(&format!("waiting for what begins to listen: {error}"));
                self.events = None;
            }
            Err(_) => self.settled = SETTLE.len().min(self.settled + 1),
        }
        self.asked = Instant::now();
    }

    /// Whether a program is known to have asked for this UDP port.
    fn was_asked_for(&self, port: u16) -> bool {
        let events = self.events.as_ref();
        events.is_some_and(|events| events.was_asked_for(port))
    }
}

/// Where in the machine somebody listens on this port.
pub fn addresses_of(transport: Transport, port: u16) -> io::Result<Vec<SocketAddr>> {
    let listening = Kernel::ask_at()?.listening()?;
    let of_port = listening
        .into_iter()
        .filter(|socket| socket.transport == transport && socket.address.port() == port);
    Ok(of_port.map(|socket| socket.address).collect())
}

/// The kernel's list of sockets.
struct Kernel {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Kernel {
    fn ask_at() -> io::Result<Kernel> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        Ok(Kernel {
            socket,
            buffer: vec![0; ANSWERS],
        })
    }

    /// All TCP sockets that listen, and all UDP sockets that anyone may send to.
    fn listening(&mut self) -> io::Result<BTreeSet<Listening>> {
        let mut found = BTreeSet::new();
        for family in [AF_INET, AF_INET6] {
            self.ask(
                family,
                IPPROTO_TCP,
                StateFlags::LISTEN,
                &mut |address, inode| {
                    found.insert(Listening {
                        transport: Transport::Tcp,
                        address,
                        inode,
                    });
                },
            )?;
            self.ask(
                family,
                IPPROTO_UDP,
                StateFlags::CLOSE,
                &mut |address, inode| {
                    if address.port() != DHCP_CLIENT {
                        found.insert(Listening {
                            transport: Transport::Udp,
                            address,
                            inode,
                        });
                    }
                },
            )?;
        }
        found.retain(|socket| socket.address.port() != container_protocol::RELAY_PORT);
        Ok(found)
    }

    fn ask(
        &mut self,
        family: u8,
        protocol: u8,
        states: StateFlags,
        found: &mut dyn FnMut(SocketAddr, u32),
    ) -> io::Result<()> {
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
        self.socket.send(&bytes, 0)?;
        loop {
            let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<SockDiagMessage>::deserialize(rest);
                let answer = answer.map_err(io::Error::other)?;
                rest = rest
                    .get((answer.header.length as usize).next_multiple_of(4)..)
                    .unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                        let id = &socket.header.socket_id;
                        let is_bound = id.source_port != 0 && id.destination_port == 0;
                        if is_bound {
                            let address = match plain(id.source_address) {
                                // The host's stack speaks IPv4 with the machine.
                                address if address.is_unspecified() && is_for_v6_alone(&socket) => {
                                    Ipv6Addr::LOCALHOST.into()
                                }
                                address => address,
                            };
                            found((address, id.source_port).into(), socket.header.inode);
                        }
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

/// An IPv4 address that is written as one of IPv6 (RFC 4291, section 2.5.5.2) as itself.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether IPv4 does not reach it (ipv6(7), `IPV6_V6ONLY`).
fn is_for_v6_alone(socket: &InetResponse) -> bool {
    socket.nlas.contains(&Nla::SkV6Only(true))
}

/// Ports that the kernel chooses itself, for sockets that do not care (ip(7)).
fn ephemeral_ports() -> RangeInclusive<u16> {
    let setting = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let setting = setting.unwrap_or_default();
    let mut numbers = setting.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => 32768..=60999,
    }
}

/// The programs that have these sockets, by the sockets' inodes.
fn programs(sockets: &BTreeSet<Listening>) -> HashMap<u32, String> {
    let mut wanted: BTreeSet<u32> = sockets.iter().map(|socket| socket.inode).collect();
    let mut names = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        if wanted.is_empty() {
            break;
        }
        let is_process = process.file_name().as_encoded_bytes()[0].is_ascii_digit();
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten().filter(|_| is_process) {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[");
            let inode = inode.and_then(|rest| rest.trim_end_matches(']').parse().ok());
            if let Some(inode) = inode
                && wanted.remove(&inode)
            {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                names.insert(inode, name.trim_end().to_owned());
            }
        }
    }
    // Not to be looked for again at every change.
    names.extend(wanted.into_iter().map(|inode| (inode, String::new())));
    names
}
