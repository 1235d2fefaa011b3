//! The preface of relayed connections and datagrams.
//!
//! The host reaches services on the machine's loopback over the agent's
//! [`RELAY_PORT`](crate::RELAY_PORT). A TCP connection, and each UDP datagram, starts with the
//! number of the service's port: two bytes, big-endian. Answers have no preface.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Returns the preface for a port.
pub fn preface(port: u16) -> [u8; 2] {
    port.to_be_bytes()
}

/// Reads the port from the start of a connection.
///
/// # Errors
/// If the connection fails or ends before its preface.
pub async fn read_port(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<u16> {
    stream.read_u16().await
}

/// Splits a datagram into port and payload. Returns `None` for one that is too short.
pub fn split_datagram(datagram: &[u8]) -> Option<(u16, &[u8])> {
    let (port, payload) = datagram.split_first_chunk()?;
    Some((u16::from_be_bytes(*port), payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn preface_is_read_and_split_off() {
        let datagram = [&preface(8080)[..], b"payload"].concat();
        assert_eq!(split_datagram(&datagram), Some((8080, &b"payload"[..])));
        assert_eq!(split_datagram(&[1]), None);
        let mut stream = &datagram[..];
        assert_eq!(read_port(&mut stream).await.unwrap(), 8080);
        assert_eq!(stream, b"payload");
    }
}
