//! A machine's network in user space, with no privilege on the host.
//!
//! One end of a pair of datagram sockets is the machine's network card: each datagram is an Ethernet
//! frame. On this end a TCP/IP stack ([`smoltcp`]) stands for all the world: what the guest connects
//! to is connected to from the host by ordinary sockets, and what the guest listens on is listened
//! for on the host, at an address of the machine's own in 127/8.
//!
//! All of it runs on a thread of its own, in one task: frames from the card, then connections,
//! then frames to the card, whenever anything of it can go on. Every buffer is bounded; who is slow
//! slows the other side down, as over a real link.

mod echo;
mod inbound;
mod link;
mod names;
mod packet;
mod policy;
mod segment;
mod stack;
mod tcp;
mod udp;

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use container_machine::MachineAddress;
use tokio::sync::mpsc;

pub use inbound::{GuestPort, PortStatus, Reach};
pub use policy::Policy;
pub use segment::{GATEWAY, MTU, PREFIX, card};

/// What a machine's network is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The machine's name.
    pub id: String,
    /// Its addresses.
    pub address: MachineAddress,
    /// What the guest may reach.
    pub policy: Policy,
    /// The directory in which the machines of one user find each other; made by the caller.
    pub segment: PathBuf,
}

/// A network that runs. It ends when this is dropped, or when the card's other end is closed.
#[derive(Debug)]
pub struct Network {
    /// None once it is to end.
    ports: Option<mpsc::UnboundedSender<Vec<GuestPort>>>,
    statuses: Arc<Mutex<Vec<PortStatus>>>,
    address: MachineAddress,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Begins to serve the card.
    ///
    /// # Errors
    /// If the thread or its event loop cannot be made.
    pub fn start(card: UnixDatagram, settings: Settings) -> io::Result<Network> {
        let address = settings.address;
        let (ports, wanted) = mpsc::unbounded_channel();
        let statuses = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&statuses);
        let events = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        card.set_nonblocking(true)?;
        let thread = thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || {
                let served = events.block_on(stack::serve(card, settings, wanted, told));
                if let Err(error) = served {
                    tracing::error!("the machine's network ended: {error}");
                }
            })?;
        Ok(Network {
            ports: Some(ports),
            statuses,
            address,
            thread: Some(thread),
        })
    }

    /// The machine's address.
    pub fn address(&self) -> MachineAddress {
        self.address
    }

    /// What the guest listens on, all of it: listeners on the host appear and disappear with it.
    pub fn set_ports(&self, ports: Vec<GuestPort>) {
        if let Some(wanted) = &self.ports {
            // With the card's other end gone there is no machine to listen for.
            let _ = wanted.send(ports);
        }
    }

    /// What of the guest is reached where, and what is not and why.
    pub fn ports(&self) -> Vec<PortStatus> {
        let statuses = self.statuses.lock();
        statuses.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Network {
    /// Waits until nothing of it is left, which takes no longer than a turn of its loop.
    fn drop(&mut self) {
        self.ports = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the machine's network has failed");
        }
    }
}
