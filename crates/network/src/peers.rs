//! The user's other machines: their packets and their names.
//!
//! Each running machine has a datagram socket in one directory, named after its IPv4 address, and a
//! symbolic link from its id to that socket. Machines send each other IP packets over the sockets.
//!
//! The directory may be replaced while machines run: that of a login session is removed at logout.
//! Each machine joins the new one when it [notices](PeerNetwork::rejoin).

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use container_machine::{MachineAddress, create_private};
use tokio::net::UnixDatagram as AsyncDatagram;

/// A machine's membership in the network of its user's machines. Dropping it removes the machine's
/// socket and name.
#[derive(Debug)]
pub(crate) struct PeerNetwork {
    path: PathBuf,
    socket_name: String,
    id: String,
    joined: Mutex<Joined>,
    /// Whether socket and name stay when this is dropped.
    is_held: AtomicBool,
}

/// The directory that was joined, and the machine's socket in it.
#[derive(Debug)]
struct Joined {
    directory: File,
    socket: AsyncDatagram,
}

impl Joined {
    fn join(
        directory: &Path,
        socket_name: &str,
        id: &str,
        held: Option<OwnedFd>,
    ) -> io::Result<Joined> {
        let directory = File::open(directory)?;
        let socket_path = path_in(&directory, socket_name);
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
        std::os::unix::fs::symlink(socket_name, &link)?;
        Ok(Joined { directory, socket })
    }

    fn path(&self, name: &str) -> PathBuf {
        path_in(&self.directory, name)
    }

    /// Returns whether this is the directory at `path`, and has an entry `name`.
    fn is_at(&self, path: &Path, name: &str) -> bool {
        let identity = |about: io::Result<fs::Metadata>| about.map(|it| (it.dev(), it.ino())).ok();
        let found = identity(fs::metadata(path));
        found.is_some() && found == identity(self.directory.metadata()) && self.path(name).exists()
    }
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
        let socket_name = address.guest().to_string();
        let joined = Joined::join(directory, &socket_name, id, held)?;
        Ok(PeerNetwork {
            path: directory.to_owned(),
            socket_name,
            id: id.to_owned(),
            joined: Mutex::new(joined),
            is_held: AtomicBool::new(false),
        })
    }

    /// Joins the directory again if it was replaced, or the machine's name was removed from it.
    /// Returns whether it was. The task that receives packets must then be woken.
    ///
    /// # Errors
    /// If there is no directory, and none can be created, as between a logout and the next login.
    pub(crate) fn rejoin(&self) -> io::Result<bool> {
        let mut joined = self.joined();
        if self.is_held.load(Ordering::Relaxed) || joined.is_at(&self.path, &self.id) {
            return Ok(false);
        }
        for directory in self.path.parent().into_iter().chain([&*self.path]) {
            create_private(directory).map_err(io::Error::other)?;
        }
        *joined = Joined::join(&self.path, &self.socket_name, &self.id, None)?;
        Ok(true)
    }

    /// Returns the socket. It keeps its name, and receives packets when this is dropped.
    pub(crate) fn hold(&self) -> io::Result<OwnedFd> {
        let socket = self.joined().socket.as_fd().try_clone_to_owned()?;
        self.is_held.store(true, Ordering::Relaxed);
        Ok(socket)
    }

    /// Returns another descriptor of the socket.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        self.joined().socket.as_fd().try_clone_to_owned()
    }

    fn joined(&self) -> MutexGuard<'_, Joined> {
        // A panic leaves it joined.
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
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
        let joined = self.joined();
        let to = joined.path(&to.to_string());
        let sent = joined.socket.try_send_to(packet, to);
        match sent {
            // The receiver's queue is full: the packet is lost, as on any link.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Receives the next packet from another machine, and returns its length.
    pub(crate) fn poll_receive(&self, buffer: &mut [u8], context: &mut Context<'_>) -> Poll<usize> {
        let joined = self.joined();
        while let Poll::Ready(Ok(())) = joined.socket.poll_recv_ready(context) {
            if let Ok(length) = joined.socket.try_recv(buffer) {
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
        let joined = self.joined();
        let target = fs::read_link(joined.path(id)).ok()?;
        let address = target.to_str()?.parse().ok()?;
        // Fails if a crash has left the name behind.
        let _ = joined
            .socket
            .try_send_to(&[], joined.path(target.to_str()?));
        Some(address)
    }

    /// Returns the id of the running machine with this address.
    pub(crate) fn id_of(&self, address: Ipv4Addr) -> Option<String> {
        let socket_name = address.to_string();
        let entries = fs::read_dir(self.joined().path("")).ok()?;
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
        let joined = self.joined();
        let _ = remove_if_present(&joined.path(&self.id));
        let _ = remove_if_present(&joined.path(&self.socket_name));
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

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::time::timeout;

    use super::*;

    /// Interval at which a packet is sent again.
    const INTERVAL: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn machines_find_each_other_in_a_new_directory() {
        let session = tempfile::tempdir().unwrap();
        let runtime = session.path().join("container");
        let directory = runtime.join("segment");
        create_private(&directory).unwrap();
        let join = |id: &str, index: u32| {
            let address = MachineAddress::from_index(index);
            PeerNetwork::join(&directory, id, address, None).unwrap()
        };
        let (first, second) = (join("first", 1), join("second", 2));
        assert!(!first.rejoin().unwrap());
        for removed in [&runtime, &directory, &directory.join("first")] {
            let removed = if removed.is_dir() {
                fs::remove_dir_all
            } else {
                fs::remove_file
            }(removed);
            removed.unwrap();
            assert!(first.rejoin().unwrap());
            second.rejoin().unwrap();
            assert!(!first.rejoin().unwrap());
            let address = second.address_of("first").unwrap();
            assert_eq!(first.id_of(address).as_deref(), Some("first"));
            let mut buffer = [0; 100];
            let mut received = 0;
            // A lookup sends an empty packet. The first ones are lost, as on any link, until the
            // event loop has seen that the socket is writable.
            while received == 0 {
                second.send(IpAddr::V4(address), b"packet").unwrap();
                let receive = poll_fn(|context| first.poll_receive(&mut buffer, context));
                received = timeout(INTERVAL, receive).await.unwrap_or(0);
            }
            assert_eq!(&buffer[..received], b"packet");
        }
        let third = join("third", 3);
        assert!(first.address_of("third").is_some());
        drop(third);
        assert_eq!(first.address_of("third"), None::<Ipv4Addr>);
    }
}
