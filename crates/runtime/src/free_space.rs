//! Warns the user of a running machine when little space is left on the host's disk.

use std::{mem, sync::Arc, time::Duration};

use container_machine::FreeSpace;
use tokio::time::sleep;

use crate::{launch::Launch, state::MachineState};

/// Interval at which the free space is read.
const INTERVAL: Duration = Duration::from_secs(20);

/// Adds a note for the user whenever the free space has fallen below the least that the launch
/// names. The service has warned at the boot.
pub(crate) async fn watch(machine: Arc<MachineState>, launch: Launch) {
    let least = launch.least_free_space;
    // A snapshot may replace the file, but not the directory.
    let directory = launch.disk.parent().unwrap_or(&launch.disk);
    let mut level = Level::new(FreeSpace::at(directory), least);
    loop {
        sleep(INTERVAL).await;
        if let Some(warning) = level.observe(FreeSpace::at(directory)) {
            machine.add_note(format!("{}: {warning}", launch.id));
        }
    }
}

/// Whether the free space was low when it was read last.
#[derive(Debug)]
struct Level {
    is_low: bool,
    least: FreeSpace,
}

impl Level {
    fn new(free: Option<FreeSpace>, least: FreeSpace) -> Level {
        Level {
            is_low: free.is_some_and(|free| free < least),
            least,
        }
    }

    /// Returns a warning if the space is low, and was not before.
    fn observe(&mut self, free: Option<FreeSpace>) -> Option<String> {
        let warning = free?.warning(self.least);
        let was_low = mem::replace(&mut self.is_low, warning.is_some());
        warning.filter(|_| !was_low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fall_is_warned_of_once() {
        let mebibytes = |number: u64| Some(FreeSpace::from(number << 20));
        let mut level = Level::new(mebibytes(900), "1G".parse().unwrap());
        assert_eq!(level.observe(mebibytes(800)), None);
        assert_eq!(level.observe(mebibytes(1024)), None);
        assert!(level.observe(mebibytes(1023)).unwrap().contains("1023 MiB"));
        assert_eq!(level.observe(None), None);
        assert_eq!(level.observe(mebibytes(10)), None);
    }
}
