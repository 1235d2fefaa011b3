//! UDP from the guest to the host's side.
//!
//! Each socket of the guest has one socket on the host, whatever its destinations, so that every
//! receiver sees the same sender and any of them may reply (endpoint-independent mapping, RFC 4787,
//! REQ-1).

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use crate::{
    address::{GATEWAY, GATEWAY6},
    packet::{Datagram, Packet},
    throttle::Throttle,
};

/// Limit of sockets. Beyond it, the least recently used one is closed.
const MAX_FLOWS: usize = 512;

/// Time after which an idle socket is closed (RFC 4787, REQ-5).
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Capacity of the queue of datagrams for one socket.
const QUEUE_CAPACITY: usize = 64;

/// Limit in bytes of the datagrams in all queues.
const MAX_QUEUED: usize = 16 << 20;

/// Size of the buffer for one datagram, which is larger than any.
const BUFFER_SIZE: usize = 65536;

/// The host's sockets, by the guest's address.
pub(crate) struct UdpFlows {
    flows: HashMap<SocketAddr, UdpFlow>,
    to_guest: mpsc::Sender<Vec<u8>>,
    failed: Arc<Mutex<Throttle>>,
    /// The bytes that may still be queued.
    room: Arc<Semaphore>,
}

struct UdpFlow {
    outgoing: mpsc::Sender<Queued>,
    used_at: Instant,
}

/// A datagram of the guest that waits to be sent.
struct Queued {
    datagram: Datagram,
    /// The destination on the host's side.
    to: SocketAddr,
    /// Its room among the queued bytes.
    _room: OwnedSemaphorePermit,
}

impl UdpFlows {
    /// Creates an empty set. Packets for the guest are sent to `to_guest`.
    pub(crate) fn new(to_guest: mpsc::Sender<Vec<u8>>) -> UdpFlows {
        UdpFlows {
            flows: HashMap::new(),
            to_guest,
            failed: Arc::default(),
            room: Arc::new(Semaphore::new(MAX_QUEUED)),
        }
    }

    /// Closes all sockets.
    pub(crate) fn close_all(&mut self) {
        self.flows.clear();
    }

    /// Sends a datagram of the guest to an address on the host's side. It is dropped if too many
    /// wait already.
    pub(crate) fn send(&mut self, datagram: Datagram, to: SocketAddr) {
        let guest = datagram.source;
        self.flows.retain(|_, flow| !flow.outgoing.is_closed());
        if !self.flows.contains_key(&guest) {
            if self.flows.len() >= MAX_FLOWS {
                let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used_at);
                if let Some(oldest) = oldest.map(|(guest, _)| *guest) {
                    self.flows.remove(&oldest);
                }
            }
            let (outgoing, datagrams) = mpsc::channel(QUEUE_CAPACITY);
            let failed = Arc::clone(&self.failed);
            tokio::spawn(run_flow(guest, datagrams, self.to_guest.clone(), failed));
            let used_at = Instant::now();
            self.flows.insert(guest, UdpFlow { outgoing, used_at });
        }
        if let Some(flow) = self.flows.get_mut(&guest) {
            flow.used_at = Instant::now();
            // A datagram has at most 65,535 bytes.
            let length = u32::try_from(datagram.payload.len()).unwrap_or(u32::MAX);
            if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(length) {
                let _ = flow.outgoing.try_send(Queued {
                    datagram,
                    to,
                    _room: room,
                });
            }
        }
    }
}

/// Serves one socket of the guest until it is idle or has been removed from the set.
async fn run_flow(
    guest: SocketAddr,
    mut outgoing: mpsc::Receiver<Queued>,
    to_guest: mpsc::Sender<Vec<u8>>,
    failed: Arc<Mutex<Throttle>>,
) {
    let unspecified: IpAddr = match guest {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = match UdpSocket::bind((unspecified, 0)).await {
        Ok(socket) => socket,
        Err(error) => {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(more) = failed.admit() {
                tracing::warn!(
                    "cannot open a UDP socket for the guest: {error} ({more} more before)"
                );
            }
            return;
        }
    };
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let step = async {
            tokio::select! {
                next = outgoing.recv() => {
                    let Queued { datagram, to, .. } = &next?;
                    Some(send_to_host(&socket, *to, datagram).await)
                }
                Ok((length, from)) = socket.recv_from(&mut buffer) => {
                    Some(reply_packet(guest, from, &buffer[..length]))
                }
            }
        };
        match timeout(IDLE_TIMEOUT, step).await {
            Ok(Some(packet)) => {
                if let Some(packet) = packet {
                    let _ = to_guest.send(packet).await;
                }
            }
            Ok(None) | Err(_) => return,
        }
    }
}

/// Sends a datagram from the host. Returns an ICMP packet for the guest if there is no route.
async fn send_to_host(socket: &UdpSocket, to: SocketAddr, datagram: &Datagram) -> Option<Vec<u8>> {
    let error = socket.send_to(&datagram.payload, to).await.err()?;
    tracing::debug!("cannot send a datagram to {to}: {error}");
    if !is_unreachable(&error) {
        return None;
    }
    Packet::parse(&datagram.to_packet()?)?.unreachable()
}

/// Whether the host has no route to the destination.
pub(crate) fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable
    )
}

/// Returns the packet that delivers a datagram of the host's side to the guest.
fn reply_packet(guest: SocketAddr, from: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let source = match from.ip() {
        // The guest has sent it to the gateway, which stands for the host's loopback.
        IpAddr::V4(address) if address.is_loopback() => GATEWAY.into(),
        IpAddr::V6(address) if address.is_loopback() => GATEWAY6.into(),
        source => source,
    };
    let datagram = Datagram {
        source: SocketAddr::new(source, from.port()),
        destination: guest,
        payload: payload.to_vec(),
    };
    datagram.to_packet()
}
