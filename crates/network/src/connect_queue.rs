//! Connections from the host that wait until the guest is asked to accept them.
//!
//! A connection that a program on the host has made is already established on the host. The guest
//! is asked next, a few connections at a time for each port. One that the guest refuses can be put
//! back for a retry, so that a server which restarts does not lose connections.

use std::{
    collections::{HashMap, VecDeque},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::mpsc, time::sleep};

use crate::host_listeners::AcceptedConnection;

/// Limit of connections to one guest port that are being established at the same time. A server
/// with a short accept queue drops more than that, and each dropped SYN costs a retransmission
/// timeout, so the others do better to wait here.
const MAX_CONNECTING: usize = 8;

/// Time for which a guest port that is known to have a listener may refuse a connection.
const RETRY_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval of the retries.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Number of connections that are being established, by guest port.
pub(crate) type ConnectingCounts = HashMap<u16, usize>;

/// Connections that wait for their turn, and those that wait for a retry.
#[derive(Debug)]
pub(crate) struct ConnectQueue {
    /// By guest port; oldest first.
    waiting: HashMap<u16, VecDeque<AcceptedConnection>>,
    retries: mpsc::UnboundedReceiver<AcceptedConnection>,
    retry_sender: mpsc::UnboundedSender<AcceptedConnection>,
}

impl ConnectQueue {
    pub(crate) fn new() -> ConnectQueue {
        let (retry_sender, retries) = mpsc::unbounded_channel();
        ConnectQueue {
            waiting: HashMap::new(),
            retries,
            retry_sender,
        }
    }

    /// Returns the number of waiting connections, without those that wait for a retry.
    pub(crate) fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Appends a connection.
    pub(crate) fn push(&mut self, accepted: AcceptedConnection) {
        let waiting = self.waiting.entry(accepted.guest_port).or_default();
        waiting.push_back(accepted);
    }

    /// Removes and returns the connections that have waited for too long.
    pub(crate) fn take_overdue(&mut self) -> Vec<AcceptedConnection> {
        let mut overdue = Vec::new();
        for waiting in self.waiting.values_mut() {
            while let Some(first) = waiting.pop_front_if(|it| it.is_overdue()) {
                overdue.push(first);
            }
        }
        overdue
    }

    /// Schedules a retry of a connection that the guest has refused. Returns the connection if its
    /// time is over.
    pub(crate) fn retry(&self, refused: AcceptedConnection) -> Result<(), AcceptedConnection> {
        if refused.accepted_at.elapsed() > RETRY_TIMEOUT {
            return Err(refused);
        }
        let sender = self.retry_sender.clone();
        tokio::spawn(async move {
            sleep(RETRY_INTERVAL).await;
            // An error means that the network has stopped; the connection is dropped with it.
            let _ = sender.send(refused);
        });
        Ok(())
    }

    /// Appends the connections whose retry is due.
    pub(crate) fn poll_retries(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Some(accepted)) = self.retries.poll_recv(context) {
            self.push(accepted);
        }
    }

    /// Removes and returns the connections that the guest can be asked for now, given the number of
    /// those that it is being asked for already.
    pub(crate) fn take_ready(
        &mut self,
        mut connecting: ConnectingCounts,
    ) -> Vec<AcceptedConnection> {
        let mut ready = Vec::new();
        for (port, waiting) in &mut self.waiting {
            let count = connecting.entry(*port).or_default();
            while *count < MAX_CONNECTING
                && let Some(accepted) = waiting.pop_front()
            {
                *count += 1;
                ready.push(accepted);
            }
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        ready
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn connections_that_have_waited_for_too_long_are_removed() {
        let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut queue = ConnectQueue::new();
        for seconds in [3600, 1] {
            let client = TcpStream::connect(host.local_addr().unwrap());
            queue.push(AcceptedConnection {
                stream: client.await.unwrap(),
                guest_port: 80,
                accepted_at: Instant::now() - Duration::from_secs(seconds),
            });
        }
        assert_eq!(queue.take_overdue().len(), 1);
        assert_eq!(queue.len(), 1);
    }
}
