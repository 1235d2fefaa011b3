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

mod caller;
mod echo;
mod host_names;
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
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use container_machine::MachineAddress;
use container_protocol::{PublishedPort, local::PortStatus};
use tokio::sync::{mpsc, oneshot};

pub use inbound::{GuestPort, Reach};
pub use policy::Policy;
pub use segment::{GATEWAY, GATEWAY6, MTU, PREFIX, PREFIX6, card, v6};

/// What a machine's network is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The machine's name.
    pub id: String,
    /// Its addresses.
    pub address: MachineAddress,
    /// What the guest may reach.
    pub policy: Policy,
    /// What is published from the beginning on.
    pub published: Vec<PublishedPort>,
    /// The directory in which the machines of one user find each other; made by the caller.
    pub segment: PathBuf,
    /// Where the host's resolver may ask for them.
    pub name_server: SocketAddr,
}

/// What is to be listened for on the host from now on.
enum Change {
    Guest(Vec<GuestPort>),
    /// Whoever asks hears when it is done.
    Published(Vec<PublishedPort>, oneshot::Sender<()>),
}

/// A network that runs. It ends when this is dropped, or when the card's other end is closed.
#[derive(Debug)]
pub struct Network {
    /// None once it is to end.
    changes: Option<mpsc::UnboundedSender<Change>>,
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
        let (changes, changed) = mpsc::unbounded_channel();
        let statuses = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&statuses);
        let events = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        card.set_nonblocking(true)?;
        let thread = thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || {
                let served = events.block_on(stack::serve(card, settings, changed, told));
                if let Err(error) = served {
                    tracing::error!("the machine's network ended: {error}");
                }
            })?;
        Ok(Network {
            changes: Some(changes),
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
        self.change(Change::Guest(ports));
    }

    /// What is published, all of it. Done when this returns.
    pub async fn set_published(&self, ports: Vec<PublishedPort>) {
        let (done, is_done) = oneshot::channel();
        self.change(Change::Published(ports, done));
        // It ends with an error when nothing is served any more.
        let _ = is_done.await;
    }

    fn change(&self, change: Change) {
        if let Some(changes) = &self.changes {
            // With the card's other end gone there is no machine to listen for.
            let _ = changes.send(change);
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
        self.changes = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the machine's network has failed");
        }
    }
}
