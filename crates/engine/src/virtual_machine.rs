//! The description of a virtual machine, as an engine starts it.

use std::{os::fd::OwnedFd, path::PathBuf};

/// A virtual machine that is about to start.
#[derive(Debug)]
pub struct VirtualMachine {
    /// Name in process lists.
    pub name: String,
    /// Number of virtual CPUs, at least one.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Whether the guest may run virtual machines of its own.
    pub virtualization: bool,
    /// The kernel and its initramfs.
    pub kernel: Kernel,
    /// The disk, created by [`disk::create_overlay`](crate::disk::create_overlay).
    pub disk: PathBuf,
    /// Host directories that the machine always has, each served by a process. Others can be
    /// [attached](crate::Running::attach).
    pub file_shares: Vec<FileShare>,
    /// The network card; absent for a machine without a network.
    pub network: Option<NetworkCard>,
    /// The byte stream to the guest agent.
    pub channel: Channel,
    /// The writing end of a pipe for the kernel's console. The other end must be read, because the
    /// guest waits while the pipe is full. It is a pipe because a socket holds only a few hundred
    /// single-byte writes, a pipe 64 KiB.
    pub console: OwnedFd,
    /// Log of the engine's own output, appended to.
    pub engine_log: PathBuf,
}

/// A kernel with its initramfs and parameters, for one boot. `container_kernel::Kernel` is one that
/// a user can choose.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Path of an ELF kernel with a PVH entry point, or of a bzImage.
    pub image: PathBuf,
    /// Path of the initramfs, which consists of concatenated cpio archives.
    pub initramfs: PathBuf,
    /// Kernel parameters, separated by spaces and appended to the engine's own.
    pub parameters: String,
}

/// A byte stream between host and guest: a virtio-serial port.
#[derive(Debug)]
pub struct Channel {
    /// The engine's end of a socket pair.
    pub connection: OwnedFd,
    /// The port's name in the guest.
    pub name: String,
}

/// A virtio-fs device. `container_file_share` serves its directory.
#[derive(Debug)]
pub struct FileShare {
    /// The tag by which the guest mounts it.
    pub tag: String,
    /// Connection to the vhost-user process that serves it.
    pub connection: OwnedFd,
}

/// Number of ports for file shares that are attached while the machine exists.
pub const SHARE_PORTS: u8 = 8;

/// A port for a file share that is attached while the machine exists.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "u8", into = "u8")]
pub struct SharePort(u8);

/// A machine has no such port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a machine has no port {0} for file shares")]
pub struct InvalidSharePort(u8);

impl SharePort {
    /// Returns all ports.
    pub fn all() -> impl Iterator<Item = SharePort> {
        (0..SHARE_PORTS).map(SharePort)
    }

    /// Returns the port's number.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for SharePort {
    type Error = InvalidSharePort;

    fn try_from(number: u8) -> Result<SharePort, InvalidSharePort> {
        if number < SHARE_PORTS {
            Ok(SharePort(number))
        } else {
            Err(InvalidSharePort(number))
        }
    }
}

impl From<SharePort> for u8 {
    fn from(port: SharePort) -> u8 {
        port.0
    }
}

/// A file share that is attached while the machine exists.
#[derive(Debug)]
pub struct AttachedShare {
    /// The port, which no other share uses.
    pub port: SharePort,
    /// The device.
    pub share: FileShare,
}

/// A network card whose frames are served by a process of the host.
#[derive(Debug)]
pub struct NetworkCard {
    /// The engine's end of a pair of datagram sockets; a datagram is an Ethernet frame.
    pub connection: OwnedFd,
    /// MAC address.
    pub address: [u8; 6],
    /// Maximum size of an IP packet in bytes.
    pub mtu: u16,
}
