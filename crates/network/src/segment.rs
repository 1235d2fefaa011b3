//! The network that a user's machines share.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use container_machine::MachineAddress;
use tokio::net::UnixDatagram as AsyncDatagram;

/// The gateway, which is also the name server and what stands for the host.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

/// Length of the prefix of the machines' network.
pub const PREFIX: u8 = 16;

/// The gateway's other address.
pub const GATEWAY6: Ipv6Addr = v6(GATEWAY);

/// Length of the prefix of the machines' IPv6 network.
pub const PREFIX6: u8 = 64;

/// The IPv6 address that goes with an address of the machines' network: the same one in a network of
/// unique local addresses (RFC 4193, whose 40 bits were drawn by lot).
pub const fn v6(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Ipv6Addr::new(0xfd7e, 0x41c9, 0xb35a, 0, 0, 0, high, low)
}

/// Bytes of an IP packet on a machine's card. Large, since on an emulated processor packets cost more
/// than bytes.
pub const MTU: u16 = 65520;

/// The address of the card that has this address: locally administered.
pub const fn card(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x00, a, b, c, d]
}

/// Whether this is an address of the machines' networks.
pub fn is_of_segment(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..2] == GATEWAY.octets()[..2],
        IpAddr::V6(address) => address.octets()[..8] == GATEWAY6.octets()[..8],
    }
}

/// Whether this is one of the gateway's addresses.
pub fn is_gateway(address: IpAddr) -> bool {
    address == GATEWAY || address == GATEWAY6
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
    pub fn send(&self, from: &AsyncDatagram, to: IpAddr, packet: &[u8]) -> io::Result<()> {
        let to = match to {
            IpAddr::V4(to) => to,
            IpAddr::V6(to) => {
                let [.., a, b, c, d] = to.octets();
                Ipv4Addr::new(a, b, c, d)
            }
        };
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

    /// The name of the running machine that has this address.
    pub fn name(&self, address: Ipv4Addr) -> Option<String> {
        let address = address.to_string();
        let entries = fs::read_dir(self.path("")).ok()?;
        entries.flatten().find_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let is_it = target.to_str() == Some(&address);
            entry.file_name().into_string().ok().filter(|_| is_it)
        })
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
