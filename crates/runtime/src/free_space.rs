//! Warns the user of a running machine when little space is left on the host's disk.

use std::{mem, path::Path, sync::Arc, thread, time::Duration};

use container_machine::FreeSpace;
use tokio::{sync::oneshot, time::sleep};

use crate::{launch::Launch, state::MachineState};

/// Interval at which the free space is read.
const INTERVAL: Duration = Duration::from_secs(20);

/// Adds a note for the user whenever the free space has fallen below the least that the launch
/// names. The service has warned at the boot.
pub(crate) async fn watch(machine: Arc<MachineState>, launch: Launch) {
    let least = launch.least_free_space;
    // A snapshot may replace the file, but not the directory.
    let directory = launch.disk.parent().unwrap_or(&launch.disk);
    let mut level = Level::new(read(directory).await, least);
    loop {
        sleep(INTERVAL).await;
        if let Some(warning) = level.observe(read(directory).await) {
            machine.add_note(format!("{}: {warning}", launch.id));
        }
    }
}

async fn read(directory: &Path) -> Option<FreeSpace> {
    let directory = directory.to_owned();
    apart(move || FreeSpace::at(&directory)).await.flatten()
}

/// Calls a function that may hang, for example on a file system whose server does not answer.
/// Neither the event loop nor its end waits for it, as the end does for `spawn_blocking`.
async fn apart<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (ended, result) = oneshot::channel();
    let thread = thread::Builder::new().name("free-space".to_owned());
    let started = thread.spawn(move || {
        // Fails if the machine has ended.
        let _ = ended.send(act());
    });
    if let Err(error) = started {
        tracing::warn!("cannot start a thread to read the free space: {error}");
    }
    result.await.ok()
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
    use std::sync::mpsc;

    use tokio::runtime;

    use super::*;

    #[test]
    fn event_loop_does_not_wait_for_a_file_system_that_hangs() {
        let (unblock, blocked) = mpsc::channel();
        let (answer, answered) = mpsc::channel();
        let hang = apart(move || answer.send(blocked.recv().unwrap()).unwrap());
        let events = runtime::Builder::new_current_thread().build().unwrap();
        events.block_on(async {
            let hanging = tokio::spawn(hang);
            tokio::task::yield_now().await;
            assert!(!hanging.is_finished());
        });
        drop(events);
        unblock.send(7).unwrap();
        assert_eq!(answered.recv(), Ok(7));
    }

    #[tokio::test]
    async fn result_of_another_thread_is_returned() {
        assert!(read(Path::new("/")).await.is_some());
        assert_eq!(read(Path::new("/nonexistent")).await, None);
    }

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
