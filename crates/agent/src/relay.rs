//! What listens on the machine's loopback alone is reached by way of the agent: the host's stack
//! connects to [`RELAY_PORT`] and says which port it means.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use container_protocol::RELAY_PORT;
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncReadExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::{listeners, power};

/// How long the host may take to say which port it means.
const QUESTION: Duration = Duration::from_secs(10);

/// How long to wait when no connection can be accepted.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Serves the gateway, and nobody else, until this is dropped.
pub async fn serve(own: Ipv4Addr, gateway: Ipv4Addr) {
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
    let addresses: Vec<SocketAddr> = listeners::addresses_of(port)?;
    TcpStream::connect(&addresses[..]).await
}
