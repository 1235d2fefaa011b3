//! Relays the host's connections and datagrams to services that are bound to the machine's
//! loopback.
//!
//! The host's network stack cannot reach loopback addresses of the guest. It connects to the agent
//! on [`RELAY_PORT`] instead. Connections and datagrams start with the number of the service's port
//! ([preface](container_protocol::relay)).

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use container_protocol::{
    RELAY_PORT, Transport,
    relay::{read_port, split_datagram},
};
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{kernel_log, listeners};

/// Timeout for the host to send the port number.
const PORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Backoff after a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// A flow of datagrams ends after this long without a datagram from the host.
const FLOW_TIMEOUT: Duration = Duration::from_secs(120);

/// Limit on concurrent flows. Datagrams beyond it are dropped.
const MAX_FLOWS: usize = 256;

/// Limit on queued datagrams of a flow. The event loop may receive many before the flow's task
/// runs.
const FLOW_QUEUE: usize = 256;

/// Size of a receive buffer in bytes: more than any UDP datagram.
const DATAGRAM_BUFFER: usize = 65536;

/// Relays TCP connections that come from the gateway, and refuses others, until this is dropped.
pub(crate) async fn serve_streams(own: Ipv4Addr, gateway: Ipv4Addr) {
    let listener = match TcpListener::bind((own, RELAY_PORT)).await {
        Ok(listener) => listener,
        Err(error) => return kernel_log::error(&format!("cannot listen for the host: {error}")),
    };
    loop {
        match listener.accept().await {
            Ok((mut host, from)) if from.ip() == IpAddr::V4(gateway) => {
                tokio::spawn(async move {
                    if relay_stream(&mut host).await.is_err() {
                        // Closing with a linger time of zero sends a reset.
                        let _ = set_socket_linger(&host, Some(Duration::ZERO));
                    }
                });
            }
            Ok(_) => {}
            Err(error) => {
                kernel_log::error(&format!("cannot accept a connection of the host: {error}"));
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Connects to the port that the host requests and copies both ways.
async fn relay_stream(host: &mut TcpStream) -> io::Result<()> {
    let port = timeout(PORT_TIMEOUT, read_port(host)).await??;
    let mut target = connect(port).await?;
    // The endpoints have decided about delays already; the relay must not add its own.
    host.set_nodelay(true)?;
    target.set_nodelay(true)?;
    let copied = copy_bidirectional(host, &mut target).await;
    if copied.is_err() {
        // A reset of one connection resets the other.
        let _ = set_socket_linger(&target, Some(Duration::ZERO));
    }
    copied.map(|_| ())
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    let addresses = listeners::addresses_of(Transport::Tcp, port)?;
    TcpStream::connect(&addresses[..]).await
}

/// Relays datagrams that come from the gateway, and ignores others, until this is dropped.
pub(crate) async fn serve_datagrams(own: Ipv4Addr, gateway: Ipv4Addr) {
    let served = async {
        let relay = Arc::new(UdpSocket::bind((own, RELAY_PORT)).await?);
        // The host uses one source port per flow.
        let mut flows: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
        let mut datagram = vec![0; DATAGRAM_BUFFER];
        loop {
            let (length, from) = relay.recv_from(&mut datagram).await?;
            let Some((port, payload)) = split_datagram(&datagram[..length]) else {
                continue;
            };
            if from.ip() != IpAddr::V4(gateway) {
                continue;
            }
            flows.retain(|_, flow| !flow.is_closed());
            if flows.len() >= MAX_FLOWS && !flows.contains_key(&from) {
                continue;
            }
            let flow = flows.entry(from).or_insert_with(|| {
                let (flow, datagrams) = mpsc::channel(FLOW_QUEUE);
                tokio::spawn(relay_flow(datagrams, port, Arc::clone(&relay), from));
                flow
            });
            // With a full queue the datagram is dropped, as on any link.
            let _ = flow.try_send(payload.to_vec());
        }
    };
    let ended: io::Result<()> = served.await;
    if let Err(error) = ended {
        kernel_log::error(&format!("cannot relay datagrams of the host: {error}"));
    }
}

/// Relays one flow of datagrams and the answers to it until its timeout or the first error.
async fn relay_flow(
    mut datagrams: mpsc::Receiver<Vec<u8>>,
    port: u16,
    relay: Arc<UdpSocket>,
    host: SocketAddr,
) {
    let relayed = async {
        let addresses = listeners::addresses_of(Transport::Udp, port)?;
        let Some(target) = addresses.first() else {
            return Ok(());
        };
        let any = match target {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(target).await?;
        let mut answer = vec![0; DATAGRAM_BUFFER];
        loop {
            tokio::select! {
                next = timeout(FLOW_TIMEOUT, datagrams.recv()) => match next {
                    Ok(Some(payload)) => drop(socket.send(&payload).await?),
                    Ok(None) | Err(_) => return Ok(()),
                },
                length = socket.recv(&mut answer) => {
                    relay.send_to(&answer[..length?], host).await?;
                }
            }
        }
    };
    // An error means that the server has ended. UDP has no way to report that to the host.
    let _: io::Result<()> = relayed.await;
}
