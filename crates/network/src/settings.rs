//! Settings of a network.

use std::{net::SocketAddr, path::PathBuf};

use container_machine::MachineAddress;
use container_protocol::{Egress, PublishedPort};

use crate::policy::Policy;

/// Settings of a machine's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The machine's id, under which other machines find it.
    pub id: String,
    /// The machine's addresses.
    pub address: MachineAddress,
    /// Restrictions on connections out of and into the guest.
    pub policy: Policy,
    /// The machine's own rules for connections out of the guest.
    pub egress: Egress,
    /// Ports that are published from the start.
    pub published: Vec<PublishedPort>,
    /// Directory with the sockets over which the machines of one user send packets to each other.
    /// It must exist, and only the user may have access to it.
    pub peer_directory: PathBuf,
    /// Address at which the host's resolver can ask for machines by name.
    pub name_server: SocketAddr,
}
