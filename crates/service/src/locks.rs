//! One change at a time for each machine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use container_machine::MachineId;
use tokio::sync::OwnedMutexGuard;

/// A lock for every machine that anybody ever asked for.
#[derive(Debug, Default)]
pub struct Locks {
    machines: Mutex<HashMap<MachineId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    /// Waits until nobody else changes this machine; held until the guard is dropped.
    pub async fn lock(&self, id: &MachineId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(machines.entry(id.clone()).or_default())
        };
        lock.lock_owned().await
    }
}
