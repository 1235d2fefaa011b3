//! The user's other machines: their packets and their names.
//!
//! Each running machine has a datagram socket in one directory, named after its IPv4 address, and a
//! symbolic link from its id to that socket. Machines send each other IP packets over the sockets.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use container_machine::MachineAddress;
use tokio::net::UnixDatagram as AsyncDatagram;

/// A machine's membership in the network of its user's machines. Dropping it removes the machine's
/// socket and name.
#[derive(Debug)]
pub(crate) struct PeerNetwork {
    directory: File,
    socket: AsyncDatagram,
    socket_name: String,
    id: String,
    /// Whether socket and name stay when this is dropped.
    is_held: AtomicBool,
}

impl PeerNetwork {
    /// Adds a machine, with a socket that was [held](Self::hold) if there is one. Its socket and
    /// name are replaced if a crash has left them behind.
    pub(crate) fn join(
        directory: &Path,
        id: &str,
        address: MachineAddress,
        held: Option<OwnedFd>,
    ) -> io::Result<PeerNetwork> {
        let directory = File::open(directory)?;
        let socket_name = address.guest().to_string();
        let socket_path = path_in(&directory, &socket_name);
        // One without a name is of another directory, or was removed with it.
        let socket = match held.filter(|_| socket_path.exists()) {
            Some(held) => AsyncDatagram::from_std(UnixDatagram::from(held))?,
            None => {
                remove_if_present(&socket_path)?;
                AsyncDatagram::bind(&socket_path)?
            }
        };
        let link = path_in(&directory, id);
        remove_if_present(&link)?;
        std::os::unix::fs::symlink(&socket_name, &link)?;
        Ok(PeerNetwork {
            directory,
            socket,
            socket_name,
            id: id.to_owned(),
            is_held: AtomicBool::new(false),
        })
    }

    /// Returns the socket. It keeps its name, and receives packets when this is dropped.
    pub(crate) fn hold(&self) -> io::Result<OwnedFd> {
        let socket = self.socket.as_fd().try_clone_to_owned()?;
        self.is_held.store(true, Ordering::Relaxed);
        Ok(socket)
    }

    fn path(&self, name: &str) -> PathBuf {
        path_in(&self.directory, name)
    }

    /// Sends an IP packet to the machine with this address.
    ///
    /// # Errors
    /// If no running machine has the address.
    pub(crate) fn send(&self, to: IpAddr, packet: &[u8]) -> io::Result<()> {
        let to = match to {
            IpAddr::V4(to) => to,
            IpAddr::V6(to) => {
                let [.., a, b, c, d] = to.octets();
                Ipv4Addr::new(a, b, c, d)
            }
        };
        let sent = self.socket.try_send_to(packet, self.path(&to.to_string()));
        match sent {
            // The receiver's queue is full: the packet is lost, as on any link.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Receives the next packet from another machine, and returns its length.
    pub(crate) fn poll_receive(&self, buffer: &mut [u8], context: &mut Context<'_>) -> Poll<usize> {
        while let Poll::Ready(Ok(())) = self.socket.poll_recv_ready(context) {
            if let Ok(length) = self.socket.try_recv(buffer) {
                return Poll::Ready(length);
            }
        }
        Poll::Pending
    }

    /// Returns the address of the machine with this id, which is running or is resumed when it is
    /// used. A lookup counts as a use, for which an empty packet is sent.
    pub(crate) fn address_of(&self, id: &str) -> Option<Ipv4Addr> {
        // The id comes out of a DNS query, and must not lead out of the directory.
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if id.is_empty() || !id.bytes().all(is_allowed) {
            return None;
        }
        let target = fs::read_link(self.path(id)).ok()?;
        let address = target.to_str()?.parse().ok()?;
        // Fails if a crash has left the name behind.
        let _ = self.socket.try_send_to(&[], self.path(target.to_str()?));
        Some(address)
    }

    /// Returns the id of the running machine with this address.
    pub(crate) fn id_of(&self, address: Ipv4Addr) -> Option<String> {
        let socket_name = address.to_string();
        let entries = fs::read_dir(self.path("")).ok()?;
        entries.flatten().find_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let is_match = target.to_str() == Some(&socket_name);
            entry.file_name().into_string().ok().filter(|_| is_match)
        })
    }
}

impl Drop for PeerNetwork {
    fn drop(&mut self) {
        if *self.is_held.get_mut() {
            return;
        }
        let _ = remove_if_present(&self.path(&self.id));
        let _ = remove_if_present(&self.path(&self.socket_name));
    }
}

/// Returns a path through the open directory. The directory's own path may be too long: the kernel
/// allows 107 bytes for the path of a socket (unix(7)).
fn path_in(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
