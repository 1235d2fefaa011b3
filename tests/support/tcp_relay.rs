//! A TCP relay with faults.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Fault of a relay, which applies to the bytes that the server sends.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// No fault.
    None,
    /// Closes each connection after this many bytes.
    BreakAfter(u64),
    /// Changes the byte at this position of each connection.
    FlipByteAt(u64),
    /// Limits the throughput to this many bytes per second.
    BytesPerSecond(u64),
}

/// A TCP relay to a real server on this host. It counts the bytes that the server sends and runs
/// until the process ends.
pub struct TcpRelay {
    address: SocketAddr,
    received: Arc<AtomicU64>,
}

impl TcpRelay {
    /// Starts a relay to `server`.
    pub fn start(server: SocketAddr, fault: Fault) -> TcpRelay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = TcpRelay {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
        };
        let received = Arc::clone(&relay.received);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let received = Arc::clone(&received);
                thread::spawn(move || relay_connection(client, server, fault, &received));
            }
        });
        relay
    }

    /// Returns the relay's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of bytes that the server has sent.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Copies bytes both ways until either end closes the connection or fails.
fn relay_connection(
    client: TcpStream,
    server: SocketAddr,
    fault: Fault,
    received: &AtomicU64,
) -> Option<()> {
    let server = TcpStream::connect(server).ok()?;
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    copy_answers(&server, &client, fault, received);
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    Some(())
}

/// Copies bytes from the server to the client, with the fault.
fn copy_answers(
    mut server: &TcpStream,
    mut client: &TcpStream,
    fault: Fault,
    received: &AtomicU64,
) -> Option<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut position = 0;
    loop {
        let count = server.read(&mut buffer).ok().filter(|count| *count > 0)?;
        let mut bytes = &mut buffer[..count];
        received.fetch_add(count as u64, Ordering::Relaxed);
        match fault {
            Fault::BreakAfter(at) if position + count as u64 >= at => {
                let left = usize::try_from(at - position).unwrap();
                bytes = &mut bytes[..left];
            }
            Fault::FlipByteAt(at) if (position..position + count as u64).contains(&at) => {
                bytes[usize::try_from(at - position).unwrap()] ^= 1;
            }
            Fault::BytesPerSecond(rate) => {
                thread::sleep(Duration::from_secs(1) * count as u32 / rate as u32)
            }
            _ => {}
        }
        client.write_all(bytes).ok()?;
        if bytes.len() < count {
            return None;
        }
        position += count as u64;
    }
}
