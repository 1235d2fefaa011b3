//! Locks that serialize changes of a machine, and of a file about all machines.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use container_api::Progress;
use container_machine::MachineId;
use tokio::sync::OwnedMutexGuard;

use crate::stream_client::StreamClient;

/// One lock for each machine id that a request has named. They only exclude requests of this
/// service: between processes, the lock in the machine's bundle does.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    machines: Mutex<HashMap<MachineId, Arc<tokio::sync::Mutex<()>>>>,
    known_hosts: Mutex<()>,
}

impl Locks {
    /// Waits for the machine's lock.
    pub(crate) async fn lock(&self, id: &MachineId) -> OwnedMutexGuard<()> {
        self.machine(id).lock_owned().await
    }

    /// Waits for the locks of two machines, or of one.
    pub(crate) async fn lock_both(
        &self,
        one: &MachineId,
        other: &MachineId,
    ) -> (OwnedMutexGuard<()>, Option<OwnedMutexGuard<()>>) {
        // In the order of the names, so that two such requests cannot wait for each other.
        let first = self.lock(one.min(other)).await;
        let second = if one == other {
            None
        } else {
            Some(self.lock(one.max(other)).await)
        };
        (first, second)
    }

    /// Waits for the machine's lock, and notifies the client if another request holds it.
    pub(crate) async fn lock_for(
        &self,
        client: &StreamClient,
        id: &MachineId,
    ) -> OwnedMutexGuard<()> {
        let lock = self.machine(id);
        match Arc::clone(&lock).try_lock_owned() {
            Ok(guard) => guard,
            Err(_) => {
                client.report(Progress::step(format!(
                    "waiting for another command on {id}"
                )));
                lock.lock_owned().await
            }
        }
    }

    /// Waits for the lock of the file with the machines' SSH host keys.
    pub(crate) fn lock_known_hosts(&self) -> MutexGuard<'_, ()> {
        self.known_hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn machine(&self, id: &MachineId) -> Arc<tokio::sync::Mutex<()>> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(machines.entry(id.clone()).or_default())
    }
}
