//! The host's sockets of a suspended machine, which no network serves.
//!
//! They stay open, so that connections and packets wait in their queues until a network
//! [takes them over](crate::Network::take_over). Nothing is accepted or read before.
#![allow(unsafe_code)]

use std::{
    future::pending,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use container_protocol::Transport;
use futures::future::select_all;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{Interest, unix::AsyncFd};

/// Number of sockets in one message. Linux allows 253 (SCM_MAX_FD).
const BATCH: usize = 64;

/// Timeout of one message to or from another process.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest description of the sockets in bytes.
const MAX_DESCRIPTION: u32 = 1 << 24;

/// The open sockets of a machine that is suspended.
#[derive(Debug, Default)]
pub struct HeldSockets(Vec<HeldSocket>);

#[derive(Debug)]
struct HeldSocket {
    purpose: Purpose,
    socket: Arc<OwnedFd>,
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// Listens on the host for a port of the machine.
    Listener(Transport, SocketAddr),
    /// Receives packets of the user's other machines.
    Peers,
}

impl HeldSockets {
    /// Adds an open socket.
    pub(crate) fn add(&mut self, purpose: Purpose, socket: OwnedFd) {
        let socket = Arc::new(socket);
        self.0.push(HeldSocket { purpose, socket });
    }

    /// Removes and returns all sockets.
    pub(crate) fn take_all(&mut self) -> Vec<(Purpose, OwnedFd)> {
        let taken = std::mem::take(&mut self.0).into_iter();
        taken
            .filter_map(|held| Some((held.purpose, Arc::into_inner(held.socket)?)))
            .collect()
    }

    /// Returns the socket that receives packets of other machines.
    pub(crate) fn peers(&self) -> Option<&OwnedFd> {
        let peers = self.0.iter().find(|held| held.purpose == Purpose::Peers);
        peers.map(|held| &*held.socket)
    }

    /// Replaces the socket that receives packets of other machines.
    pub(crate) fn replace_peers(&mut self, socket: OwnedFd) {
        self.0.retain(|held| held.purpose != Purpose::Peers);
        self.add(Purpose::Peers, socket);
    }

    /// Waits until a program of the host or another machine has used one of the sockets.
    ///
    /// # Errors
    /// If the sockets cannot be observed.
    pub async fn used(&self) -> io::Result<()> {
        if self.0.is_empty() {
            return pending().await;
        }
        let sockets = self.0.iter().map(|held| {
            let socket = Arc::clone(&held.socket);
            // SAFETY: the descriptor is owned, so it stays open and the same.
            unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
        });
        let sockets: Result<Vec<_>, _> = sockets.collect();
        let sockets = sockets.map_err(io::Error::from)?;
        let readable = sockets.iter().map(|socket| Box::pin(socket.readable()));
        select_all(readable).await.0.map(|_| ())
    }

    /// Resets the connections that wait, and drops the packets.
    pub fn refuse_waiting(&self) {
        for held in &self.0 {
            let socket = SockRef::from(&*held.socket);
            if let Purpose::Listener(Transport::Tcp, _) = held.purpose {
                while let Ok((connection, _)) = socket.accept() {
                    // Fails for a connection that has ended.
                    let _ = connection.set_linger(Some(Duration::ZERO));
                }
            } else {
                while socket.recv(&mut [MaybeUninit::uninit()]).is_ok() {}
            }
        }
    }

    /// Hands all sockets over to the process at the other end, where
    /// [`receive`](Self::receive) takes them.
    ///
    /// # Errors
    /// If the other process does not take them.
    pub fn send(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(TRANSFER_TIMEOUT))?;
        let purposes: Vec<Purpose> = self.0.iter().map(|held| held.purpose).collect();
        let description = serde_json::to_vec(&purposes)?;
        let length = u32::try_from(description.len()).map_err(io::Error::other)?;
        (&*stream).write_all(&length.to_be_bytes())?;
        (&*stream).write_all(&description)?;
        for batch in self.0.chunks(BATCH) {
            let sockets: Vec<_> = batch.iter().map(|held| held.socket.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&sockets));
            sendmsg(
                stream,
                &[IoSlice::new(&[0])],
                &mut control,
                SendFlags::NOSIGNAL,
            )?;
        }
        Ok(())
    }

    /// Receives the sockets that the process at the other end [sends](Self::send).
    ///
    /// # Errors
    /// If it does not send them all.
    pub fn receive(stream: &UnixStream) -> io::Result<HeldSockets> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(TRANSFER_TIMEOUT))?;
        let mut length = [0; 4];
        (&*stream).read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > MAX_DESCRIPTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut description = vec![0; length.try_into().map_err(io::Error::other)?];
        (&*stream).read_exact(&mut description)?;
        let purposes: Vec<Purpose> = serde_json::from_slice(&description)?;
        let mut sockets = Vec::new();
        while sockets.len() < purposes.len() {
            let received = receive_batch(stream)?;
            if received.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            sockets.extend(received);
        }
        let mut held = HeldSockets::default();
        for (purpose, socket) in purposes.into_iter().zip(sockets) {
            held.add(purpose, socket);
        }
        Ok(held)
    }
}

fn receive_batch(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok(sockets.flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        thread,
    };

    use super::*;

    fn hold(listeners: &[TcpListener]) -> HeldSockets {
        let mut held = HeldSockets::default();
        for listener in listeners {
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let socket = listener.as_fd().try_clone_to_owned().unwrap();
            held.add(Purpose::Listener(Transport::Tcp, address), socket);
        }
        held
    }

    fn listeners(count: usize) -> Vec<TcpListener> {
        let listen = |_| TcpListener::bind("127.0.0.1:0").unwrap();
        (0..count).map(listen).collect()
    }

    #[test]
    fn a_connection_survives_its_way_to_another_process() {
        let listeners = listeners(2 * BATCH + 1);
        let addresses: Vec<_> = listeners
            .iter()
            .map(|it| it.local_addr().unwrap())
            .collect();
        let held = hold(&listeners);
        drop(listeners);
        let mut client = TcpStream::connect(addresses[BATCH]).unwrap();
        client.write_all(b"early").unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sender = thread::spawn(move || held.send(&theirs).unwrap());
        let mut received = HeldSockets::receive(&ours).unwrap();
        sender.join().unwrap();
        let received = received.take_all();
        let purposes: Vec<_> = received.iter().map(|(purpose, _)| *purpose).collect();
        let expected = addresses.iter();
        let expected: Vec<_> = expected
            .map(|address| Purpose::Listener(Transport::Tcp, *address))
            .collect();
        assert_eq!(purposes, expected);
        let (_, socket) = received.into_iter().nth(BATCH).unwrap();
        let (mut accepted, _) = TcpListener::from(socket).accept().unwrap();
        let mut data = [0; 5];
        accepted.read_exact(&mut data).unwrap();
        assert_eq!(&data, b"early");
    }

    #[test]
    fn a_process_that_ends_early_has_sent_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(HeldSockets::receive(&ours).is_err());
    }

    #[tokio::test]
    async fn connections_and_datagrams_are_uses() {
        let [listener] = <[_; 1]>::try_from(listeners(1)).unwrap();
        let tcp = listener.local_addr().unwrap();
        let mut held = hold(&[listener]);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let udp = socket.local_addr().unwrap();
        held.add(Purpose::Listener(Transport::Udp, udp), socket.into());
        let is_used = async || {
            let wait = tokio::time::timeout(Duration::from_millis(50), held.used());
            wait.await.is_ok()
        };
        assert!(!is_used().await);
        let mut client = TcpStream::connect(tcp).unwrap();
        assert!(is_used().await && is_used().await, "it still waits");
        held.refuse_waiting();
        assert!(client.read(&mut [0]).is_err(), "it is reset");
        assert!(!is_used().await);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"x", udp).unwrap();
        assert!(is_used().await);
        held.refuse_waiting();
        assert!(!is_used().await);
    }
}
