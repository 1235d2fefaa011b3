//! Datagrams of the guest's: a socket on the host for each that the guest sends from, so that whoever
//! is sent to sees one sender, and any who is may answer (RFC 4787, REQ-1).

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use container_protocol::RELAY_PORT;
use tokio::{net::UdpSocket, sync::mpsc, time::timeout};

use crate::{
    packet::{Datagram, Packet},
    segment::{GATEWAY, GATEWAY6},
};

/// Sockets at most; the one that was not used for longest goes.
const MOST: usize = 512;

/// How long one is kept that nothing comes through (RFC 4787, REQ-5).
const IDLE: Duration = Duration::from_secs(300);

/// Datagrams that wait for one socket at most.
const WAITING: usize = 64;

/// The guest's sockets that have one on the host.
pub struct Flows {
    flows: HashMap<SocketAddr, Flow>,
    to_guest: mpsc::Sender<Vec<u8>>,
}

struct Flow {
    outgoing: mpsc::Sender<(SocketAddr, Datagram)>,
    used: Instant,
}

impl Flows {
    /// Packets for the guest go to `to_guest`.
    pub fn new(to_guest: mpsc::Sender<Vec<u8>>) -> Flows {
        Flows {
            flows: HashMap::new(),
            to_guest,
        }
    }

    /// Sends a datagram of the guest's to an address on the host's side.
    pub fn send(&mut self, datagram: Datagram, to: SocketAddr) {
        let guest = datagram.source;
        self.flows.retain(|_, flow| !flow.outgoing.is_closed());
        if !self.flows.contains_key(&guest) {
            if self.flows.len() >= MOST {
                let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used);
                if let Some(oldest) = oldest.map(|(guest, _)| *guest) {
                    self.flows.remove(&oldest);
                }
            }
            let (outgoing, waiting) = mpsc::channel(WAITING);
            tokio::spawn(carry(guest, waiting, self.to_guest.clone()));
            let used = Instant::now();
            self.flows.insert(guest, Flow { outgoing, used });
        }
        if let Some(flow) = self.flows.get_mut(&guest) {
            flow.used = Instant::now();
            // Beyond what may wait they are lost, as on any link.
            let _ = flow.outgoing.try_send((to, datagram));
        }
    }
}

async fn carry(
    guest: SocketAddr,
    mut outgoing: mpsc::Receiver<(SocketAddr, Datagram)>,
    to_guest: mpsc::Sender<Vec<u8>>,
) {
    let carried = async {
        let any: IpAddr = match guest {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        let mut buffer = vec![0; 65536];
        loop {
            let turn = async {
                tokio::select! {
                    next = outgoing.recv() => match next {
                        Some((to, datagram)) => {
                            if let Err(error) = socket.send_to(&datagram.payload, to).await {
                                tracing::debug!("a datagram to {to}: {error}");
                                if is_unreachable(&error)
                                    && let Some(packet) = unreachable(&datagram)
                                {
                                    let _ = to_guest.send(packet).await;
                                }
                            }
                            true
                        }
                        None => false,
                    },
                    Ok((length, from)) = socket.recv_from(&mut buffer) => {
                        if let Some(packet) = answer(guest, from, &buffer[..length]) {
                            let _ = to_guest.send(packet).await;
                        }
                        true
                    }
                }
            };
            match timeout(IDLE, turn).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return io::Result::Ok(()),
            }
        }
    };
    if let Err(error) = carried.await {
        tracing::warn!("a socket for the machine's datagrams: {error}");
    }
}

/// Whether the host has no way to where something was to go.
pub fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable
    )
}

fn unreachable(datagram: &Datagram) -> Option<Vec<u8>> {
    Packet::of(&datagram.packet()?)?.unreachable()
}

fn answer(guest: SocketAddr, from: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let source = match from.ip() {
        // What stands for it.
        IpAddr::V4(address) if address.is_loopback() => GATEWAY.into(),
        IpAddr::V6(address) if address.is_loopback() => GATEWAY6.into(),
        source => source,
    };
    let datagram = Datagram {
        source: SocketAddr::new(source, from.port()),
        destination: guest,
        payload: payload.to_vec(),
    };
    datagram.packet()
}

/// Who on the host has sent datagrams to the guest: each has a port of the gateway's, so that answers
/// find the way back.
#[derive(Default)]
pub struct Callers {
    callers: HashMap<u16, (Caller, Instant)>,
    next: u16,
}

/// Someone on the host who has sent to a port of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Where from.
    pub address: SocketAddr,
    /// Where the datagram came to.
    pub at: SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
}

/// Ports of the gateway's from here on are callers'.
const FIRST: u16 = 32768;

impl Callers {
    /// The gateway's port that stands for this caller.
    pub fn port_for(&mut self, caller: Caller) -> u16 {
        let now = Instant::now();
        let known = self.callers.iter_mut().find(|(_, (it, _))| *it == caller);
        if let Some((port, (_, used))) = known {
            *used = now;
            return *port;
        }
        if self.callers.len() >= MOST {
            let oldest = self.callers.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(port, _)| *port) {
                self.callers.remove(&oldest);
            }
        }
        loop {
            let port = FIRST + self.next % (u16::MAX - FIRST);
            self.next = self.next.wrapping_add(1);
            if let Entry::Vacant(free) = self.callers.entry(port) {
                free.insert((caller, now));
                return port;
            }
        }
    }

    /// Who is meant by a datagram from this port of the guest's to that port of the gateway's.
    pub fn caller(&self, port: u16, guest_port: u16) -> Option<Caller> {
        let (caller, _) = self.callers.get(&port)?;
        let is_meant = guest_port == caller.guest_port || guest_port == RELAY_PORT;
        is_meant.then_some(*caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_apart_and_few_enough() {
        let mut callers = Callers::default();
        let caller = |port: u16, guest_port: u16| Caller {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            at: SocketAddr::from((Ipv4Addr::LOCALHOST, guest_port)),
            guest_port,
        };
        let first = callers.port_for(caller(1, 53));
        assert_eq!(callers.port_for(caller(1, 53)), first);
        assert_ne!(callers.port_for(caller(1, 54)), first);
        assert_eq!(callers.caller(first, 53), Some(caller(1, 53)));
        assert_eq!(callers.caller(first, 54), None);
        for port in 2..2000 {
            callers.port_for(caller(port, 53));
        }
        assert_eq!(callers.callers.len(), MOST);
        assert_eq!(callers.caller(first, 53), None);
    }
}
