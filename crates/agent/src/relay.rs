//! What listens on the machine's loopback alone is reached by way of the agent: the host's stack
//! connects to [`RELAY_PORT`] and says which port it means.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use container_protocol::{RELAY_PORT, Transport};
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncReadExt, copy_bidirectional},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{listeners, power};

/// How long the host may take to say which port it means.
const QUESTION: Duration = Duration::from_secs(10);

/// How long to wait when no connection can be accepted.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How long answers to a datagram are waited for, and how many senders may wait for some.
const ANSWERS: Duration = Duration::from_secs(120);
const MOST_SENDERS: usize = 256;

/// Datagrams of one sender that may wait: more than are taken before who passes them on has its turn.
const WAITING: usize = 256;

/// Serves the gateway's streams, and nobody else's, until this is dropped.
pub async fn serve_streams(own: Ipv4Addr, gateway: Ipv4Addr) {
    let listener = match TcpListener::bind((own, RELAY_PORT)).await {
        Ok(listener) => listener,
        Err(error) => return power::say(&format!("listening for the host: {error}")),
    };
    loop {
        match listener.accept().await {
            Ok((mut host, from)) if from.ip() == IpAddr::V4(gateway) => {
                tokio::spawn(async move {
                    if join(&mut host).await.is_err() {
                        // The host sees that nobody listens, or that it has ended badly.
                        let _ = set_socket_linger(&host, Some(Duration::ZERO));
                    }
                });
            }
            Ok(_) => {}
            Err(error) => {
                power::say(&format!("accepting a connection of the host: {error}"));
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Joins the host's connection to whoever listens on the port that it names.
async fn join(host: &mut TcpStream) -> io::Result<()> {
    let port = timeout(QUESTION, host.read_u16()).await??;
    let mut target = connect(port).await?;
    // What one side has to say, the other hears at once.
    host.set_nodelay(true)?;
    target.set_nodelay(true)?;
    let carried = copy_bidirectional(host, &mut target).await;
    if carried.is_err() {
        // What one side breaks off is no orderly end for the other.
        let _ = set_socket_linger(&target, Some(Duration::ZERO));
    }
    carried.map(|_| ())
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    let addresses = listeners::addresses_of(Transport::Tcp, port)?;
    TcpStream::connect(&addresses[..]).await
}

/// Serves the gateway's datagrams, and nobody else's, until this is dropped.
pub async fn serve_datagrams(own: Ipv4Addr, gateway: Ipv4Addr) {
    let served = async {
        let relay = Arc::new(UdpSocket::bind((own, RELAY_PORT)).await?);
        // Each of the gateway's ports is a sender of its own.
        let mut senders: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
        let mut datagram = vec![0; 65536];
        loop {
            let (length, from) = relay.recv_from(&mut datagram).await?;
            let Some((port, payload)) = datagram[..length].split_first_chunk() else {
                continue;
            };
            if from.ip() != IpAddr::V4(gateway) {
                continue;
            }
            senders.retain(|_, sender| !sender.is_closed());
            if senders.len() >= MOST_SENDERS && !senders.contains_key(&from) {
                continue;
            }
            let sender = senders.entry(from).or_insert_with(|| {
                let (sender, waiting) = mpsc::channel(WAITING);
                let port = u16::from_be_bytes(*port);
                tokio::spawn(pass_on(waiting, port, Arc::clone(&relay), from));
                sender
            });
            // Beyond what may wait they are lost, as on any link.
            let _ = sender.try_send(payload.to_vec());
        }
    };
    let ended: io::Result<()> = served.await;
    if let Err(error) = ended {
        power::say(&format!("passing on datagrams of the host: {error}"));
    }
}

/// Passes one sender's datagrams on, and the answers back, until there are none for a while.
async fn pass_on(
    mut waiting: mpsc::Receiver<Vec<u8>>,
    port: u16,
    relay: Arc<UdpSocket>,
    sender: SocketAddr,
) {
    let passed = async {
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
        let mut answer = vec![0; 65536];
        loop {
            tokio::select! {
                next = timeout(ANSWERS, waiting.recv()) => match next {
                    Ok(Some(payload)) => drop(socket.send(&payload).await?),
                    Ok(None) | Err(_) => return Ok(()),
                },
                length = socket.recv(&mut answer) => {
                    relay.send_to(&answer[..length?], sender).await?;
                }
            }
        }
    };
    // A server that has gone hears no more, as if it had been asked directly.
    let _: io::Result<()> = passed.await;
}
