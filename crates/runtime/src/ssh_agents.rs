//! The SSH agents on the host that the machine may use.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::{CancellationToken, DropGuard};

/// The agents that clients have offered.
#[derive(Debug, Default)]
pub(crate) struct SshAgents {
    offered: Mutex<Offered>,
}

#[derive(Debug, Default)]
struct Offered {
    /// The last one that was offered until the machine stops.
    given: Option<SshAgent>,
    /// Those of clients that still run, the most recent one last.
    lent: Vec<SshAgent>,
}

/// An agent that the machine may use.
#[derive(Debug, Clone)]
pub(crate) struct SshAgent {
    /// Where it listens.
    pub(crate) socket: PathBuf,
    /// Cancelled when the machine may not use it any more.
    pub(crate) ended: CancellationToken,
}

impl SshAgent {
    fn new(socket: PathBuf) -> SshAgent {
        SshAgent {
            socket,
            ended: CancellationToken::new(),
        }
    }
}

impl SshAgents {
    fn offered(&self) -> MutexGuard<'_, Offered> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers an agent until the machine stops.
    pub(crate) fn give(&self, socket: PathBuf) {
        self.offered().given = Some(SshAgent::new(socket));
    }

    /// Offers an agent until the returned guard is dropped.
    pub(crate) fn lend(&self, socket: PathBuf) -> DropGuard {
        let agent = SshAgent::new(socket);
        let guard = agent.ended.clone().drop_guard();
        self.offered().lent.push(agent);
        guard
    }

    /// Returns the agent that was lent last, or else the one that was given.
    pub(crate) fn current(&self) -> Option<SshAgent> {
        let mut offered = self.offered();
        offered.lent.retain(|agent| !agent.ended.is_cancelled());
        offered.lent.last().or(offered.given.as_ref()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(agents: &SshAgents) -> Option<PathBuf> {
        agents.current().map(|agent| agent.socket)
    }

    #[test]
    fn the_most_recent_offer_counts_until_its_end() {
        let agents = SshAgents::default();
        assert_eq!(current(&agents), None);
        let first = agents.lend("/first".into());
        let second = agents.lend("/second".into());
        assert_eq!(current(&agents), Some("/second".into()));
        let connection = agents.current().unwrap();
        drop(second);
        assert!(connection.ended.is_cancelled());
        assert_eq!(current(&agents), Some("/first".into()));
        drop(first);
        assert_eq!(current(&agents), None);
    }

    #[test]
    fn an_agent_that_was_given_stays() {
        let agents = SshAgents::default();
        agents.give("/given".into());
        let lent = agents.lend("/lent".into());
        assert_eq!(current(&agents), Some("/lent".into()));
        drop(lent);
        assert_eq!(current(&agents), Some("/given".into()));
    }
}
