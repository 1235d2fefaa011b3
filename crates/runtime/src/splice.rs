//! Joins a connection of a host program to a stream of the guest.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use container_protocol::mux::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncWriteExt, BufReader, copy_buf, split},
    net::UnixStream,
};

/// Size of the buffer of each direction in bytes.
const CHUNK: usize = 64 * 1024;

/// Copies both directions until both have ended.
///
/// A client that has gone differs from one that has only closed its writing side. The stream of the
/// former must be dropped without a shutdown, which resets it. After a shutdown, dropping it would
/// not reach the guest, where a writer without a window would wait for ever.
pub(crate) async fn splice(mut client: UnixStream, guest: Stream) -> io::Result<()> {
    let descriptor = client.as_fd().try_clone_to_owned()?;
    let (from_client, mut to_client) = client.split();
    let (from_guest, mut to_guest) = split(guest);
    let to_guest = async {
        copy_buf(
            &mut BufReader::with_capacity(CHUNK, from_client),
            &mut to_guest,
        )
        .await?;
        if has_hung_up(&descriptor) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        to_guest.shutdown().await
    };
    let to_client = async {
        copy_buf(
            &mut BufReader::with_capacity(CHUNK, from_guest),
            &mut to_client,
        )
        .await?;
        to_client.shutdown().await
    };
    tokio::try_join!(to_guest, to_client)?;
    Ok(())
}

/// Returns whether the peer has closed both directions (POLLHUP of unix(7) sockets).
fn has_hung_up(connection: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(connection, PollFlags::empty())];
    let polled = poll(&mut watched, Some(&Timespec::default()));
    polled.is_ok() && watched[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use container_protocol::mux::{self, Side};
    use tokio::io::AsyncReadExt;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    /// Returns a client's connection, and the guest's end of the stream that it is joined to.
    async fn spliced() -> (UnixStream, Stream) {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (opener, _incoming, driver) = mux::multiplex(host.compat(), Side::Host);
        tokio::spawn(driver);
        let (_opener, mut incoming, driver) = mux::multiplex(guest.compat(), Side::Guest);
        tokio::spawn(driver);
        let (client, connection) = UnixStream::pair().unwrap();
        let stream = opener.open().await.unwrap();
        tokio::spawn(async move {
            let _opener = opener;
            splice(connection, stream).await
        });
        let mut client = client;
        client.write_all(b"x").await.unwrap();
        let mut stream = incoming.recv().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        (client, stream)
    }

    #[tokio::test]
    async fn a_guest_that_writes_notices_that_its_reader_has_gone() {
        let (client, mut guest) = spliced().await;
        drop(client);
        let chunk = vec![0; CHUNK];
        let writing = async { while guest.write_all(&chunk).await.is_ok() {} };
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), writing);
        assert!(ended.await.is_ok());
    }

    #[tokio::test]
    async fn a_client_reads_on_after_closing_its_writing_side() {
        let (mut client, mut guest) = spliced().await;
        client.write_all(b"all").await.unwrap();
        client.shutdown().await.unwrap();
        let mut received = String::new();
        guest.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "all");
        guest.write_all(b"answer").await.unwrap();
        guest.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }
}
