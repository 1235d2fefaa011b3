//! What was decided for one virtual machine.

use std::{net::Ipv4Addr, os::fd::OwnedFd, path::PathBuf};

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
    /// A network of the host's user.
    pub network: Option<UserNetwork>,
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
    /// Parameters on top of the engine's own.
    pub parameters: Vec<String>,
}

/// A directory served to the guest over virtio-fs.
#[derive(Debug)]
pub struct FileShare {
    /// The name under which the guest mounts it.
    pub tag: String,
    /// A connection to the vhost-user process that serves it.
    pub connection: OwnedFd,
}

/// A network that lets the guest out and nobody in: addresses are the machine's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserNetwork {
    /// The guest's address.
    pub guest: Ipv4Addr,
    /// Length of the prefix.
    pub prefix: u8,
    /// The default route.
    pub gateway: Ipv4Addr,
    /// The name server, which asks the host's.
    pub dns: Ipv4Addr,
}

impl Default for UserNetwork {
    fn default() -> Self {
        UserNetwork {
            guest: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            dns: Ipv4Addr::new(10, 0, 2, 3),
        }
    }
}
