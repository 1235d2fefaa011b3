//! TCP ports for servers that cannot bind port 0 themselves.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// First port that is used.
const FIRST: u32 = 10_000;

/// Number of ports that are used. All are below those that Linux chooses for port 0 and for
/// outgoing connections (`net.ipv4.ip_local_port_range`).
const COUNT: u32 = 22_000;

/// Ports for one process before those of the next.
const PER_PROCESS: u32 = 100;

/// Returns an address on loopback that nobody uses, and that nothing else gets afterwards: neither
/// another caller in this process or a concurrent one, nor a socket on port 0.
pub fn unused_address() -> io::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = process::id().wrapping_mul(PER_PROCESS).wrapping_add(number) % COUNT;
        let port = u16::try_from(FIRST + offset).map_err(io::Error::other)?;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return listener.local_addr(),
            Err(_) if number < COUNT => {}
            Err(error) => return Err(error),
        }
    }
}
