//! What was decided for one virtual machine.

use std::{os::fd::OwnedFd, path::PathBuf};

/// A virtual machine that is about to run.
#[derive(Debug)]
pub struct VirtualMachine {
    /// A name for process lists.
    pub name: String,
    /// Virtual CPUs, at least one.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Whether the guest may run virtual machines of its own.
    pub virtualization: bool,
    /// What boots.
    pub kernel: Kernel,
    /// The disk, made by [`Engine::create_overlay`](crate::Engine::create_overlay).
    pub disk: PathBuf,
    /// Directories of the host; each has a process that serves it.
    pub file_shares: Vec<FileShare>,
    /// The network card.
    pub network: Option<NetworkCard>,
    /// The engine's end of the byte stream to the guest agent, and the name under which the
    /// guest finds it.
    pub channel: (OwnedFd, String),
    /// The writing end of a pipe that takes the kernel's console. Somebody must read the other one: a
    /// guest waits for its console. (A socket takes some hundred single characters, a pipe 64 KiB.)
    pub console: OwnedFd,
    /// The file that takes the engine's own complaints, appended to.
    pub engine_log: PathBuf,
}

/// A kernel and what it boots with.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The image.
    pub image: PathBuf,
    /// The initial RAM file system.
    pub initramfs: PathBuf,
    /// Parameters behind the engine's own, with spaces between.
    pub parameters: String,
}

/// A directory served to the guest over virtio-fs.
#[derive(Debug)]
pub struct FileShare {
    /// The name under which the guest mounts it.
    pub tag: String,
    /// A connection to the vhost-user process that serves it.
    pub connection: OwnedFd,
}

/// A network card whose frames somebody on the host serves.
#[derive(Debug)]
pub struct NetworkCard {
    /// The engine's end of a pair of datagram sockets: an Ethernet frame each.
    pub connection: OwnedFd,
    /// The card's address.
    pub address: [u8; 6],
    /// Bytes of the largest IP packet.
    pub mtu: u16,
}
