//! One change at a time for each machine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use container_api::Progress;
use container_machine::MachineId;
use tokio::sync::OwnedMutexGuard;

use crate::caller::Caller;

/// A lock for every machine that anybody ever asked for.
#[derive(Debug, Default)]
pub struct Locks {
    machines: Mutex<HashMap<MachineId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    /// Waits until nobody else changes this machine; held until the guard is dropped.
    pub async fn lock(&self, id: &MachineId) -> OwnedMutexGuard<()> {
        self.of(id).lock_owned().await
    }

    /// As [`lock`](Self::lock), and tells the caller if it must wait.
    pub async fn lock_for(&self, caller: &Caller, id: &MachineId) -> OwnedMutexGuard<()> {
        let lock = self.of(id);
        match Arc::clone(&lock).try_lock_owned() {
            Ok(guard) => guard,
            Err(_) => {
                caller.tell(Progress::step(format!(
                    "waiting for another command on {id}"
                )));
                lock.lock_owned().await
            }
        }
    }

    fn of(&self, id: &MachineId) -> Arc<tokio::sync::Mutex<()>> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(machines.entry(id.clone()).or_default())
    }
}
