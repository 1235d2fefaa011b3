//! The network that a user's machines share.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use container_machine::MachineAddress;
use tokio::net::UnixDatagram as AsyncDatagram;

/// The gateway, which is also the name server and what stands for the host.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

/// Length of the prefix of the machines' network.
pub const PREFIX: u8 = 16;

/// Bytes of an IP packet on a machine's card. Large, since on an emulated processor packets cost more
/// than bytes.
pub const MTU: u16 = 65520;

/// The address of the card that has this address: locally administered.
pub const fn card(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x00, a, b, c, d]
}

/// Whether this is an address of the machines' network.
pub fn is_of_segment(address: Ipv4Addr) -> bool {
    address.octets()[..2] == GATEWAY.octets()[..2]
}

/// The machines of one user: each has a socket in one directory, and a link from its name to that.
#[derive(Debug)]
pub struct Segment {
    directory: File,
    own_socket: String,
    own_name: String,
}

impl Segment {
    pub fn join(
        directory: &Path,
        id: &str,
        address: MachineAddress,
    ) -> io::Result<(Segment, AsyncDatagram)> {
        let segment = Segment {
            directory: File::open(directory)?,
            own_socket: address.guest().to_string(),
            own_name: id.to_owned(),
        };
        let socket = segment.path(&segment.own_socket);
        remove(&socket)?;
        let peers = AsyncDatagram::bind(&socket)?;
        let name = segment.path(id);
        remove(&name)?;
        std::os::unix::fs::symlink(&segment.own_socket, &name)?;
        Ok((segment, peers))
    }

    /// A short path: the kernel takes 107 bytes of a socket's (unix(7)).
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!(
            "/proc/self/fd/{}/{name}",
            self.directory.as_raw_fd()
        ))
    }

    /// Sends a packet to the machine that has this address.
    pub fn send(&self, from: &AsyncDatagram, to: Ipv4Addr, packet: &[u8]) -> io::Result<()> {
        match from.try_send_to(packet, self.path(&to.to_string())) {
            // It has more to do than it can: the packet is lost, as on any link.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// The address of the running machine of this name.
    pub fn machine(&self, id: &str) -> Option<Ipv4Addr> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if id.is_empty() || !id.bytes().all(is_name) {
            return None;
        }
        let target = fs::read_link(self.path(id)).ok()?;
        target.to_str()?.parse().ok()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let _ = remove(&self.path(&self.own_name));
        let _ = remove(&self.path(&self.own_socket));
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
