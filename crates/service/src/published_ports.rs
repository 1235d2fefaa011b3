//! Published ports of a machine.

use std::{collections::HashSet, net::SocketAddr};

use container_protocol::{PublishedPort, local::PortStatus};

/// Maximum number of published ports: the runtime has an open socket for each.
const MAX_PUBLISHED_PORTS: usize = 1024;

/// The published ports of a request are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error(
        "cannot publish {count} ports: the limit is {MAX_PUBLISHED_PORTS} (all ports can be reached at the machine's own address without being published)"
    )]
    TooMany { count: usize },
    #[error("cannot publish two ports of the machine at {address}: use another address or port")]
    AddressTwice { address: SocketAddr },
}

/// Refuses two ports at one address of the host, and more ports than a machine may have.
pub(crate) fn check_published(ports: &[PublishedPort]) -> Result<(), PublishError> {
    if ports.len() > MAX_PUBLISHED_PORTS {
        return Err(PublishError::TooMany { count: ports.len() });
    }
    let mut taken = HashSet::new();
    match ports
        .iter()
        .find(|port| !taken.insert((port.transport, port.host)))
    {
        Some(port) => Err(PublishError::AddressTwice { address: port.host }),
        None => Ok(()),
    }
}

/// Returns a sentence for each published port that cannot be reached.
pub(crate) fn publish_problems(ports: &[PortStatus]) -> Vec<String> {
    let published = ports.iter().filter(|port| port.published);
    let problems = published.filter_map(|port| {
        let problem = port.problem.as_ref()?;
        Some(format!("port {} is not published: {problem}", port.port))
    });
    problems.collect()
}
