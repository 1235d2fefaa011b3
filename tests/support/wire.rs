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

/// What happens to the bytes that a server sends over a wire.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Nothing.
    None,
    /// Each connection breaks after so many bytes.
    Breaks(u64),
    /// The byte at this place of each connection is another one.
    Flips(u64),
    /// They come no faster than so many a second.
    Slow(u64),
}

/// A way to a real server on this host that counts what comes over it and has a fault. It goes
/// on until the process ends.
pub struct Wire {
    address: SocketAddr,
    received: Arc<AtomicU64>,
}

impl Wire {
    /// A wire to that server.
    pub fn to(server: SocketAddr, fault: Fault) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
        };
        let received = Arc::clone(&wire.received);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let received = Arc::clone(&received);
                thread::spawn(move || join(client, server, fault, &received));
            }
        });
        wire
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that the server has sent over it.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Carries bytes both ways until one side has enough. Whatever fails ends the connection.
fn join(client: TcpStream, server: SocketAddr, fault: Fault, received: &AtomicU64) -> Option<()> {
    let server = TcpStream::connect(server).ok()?;
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    carry_back(&server, &client, fault, received);
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    Some(())
}

fn carry_back(
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
            Fault::Breaks(at) if position + count as u64 >= at => {
                let left = usize::try_from(at - position).unwrap();
                bytes = &mut bytes[..left];
            }
            Fault::Flips(at) if (position..position + count as u64).contains(&at) => {
                bytes[usize::try_from(at - position).unwrap()] ^= 1;
            }
            Fault::Slow(rate) => thread::sleep(Duration::from_secs(1) * count as u32 / rate as u32),
            _ => {}
        }
        client.write_all(bytes).ok()?;
        if bytes.len() < count {
            return None;
        }
        position += count as u64;
    }
}
