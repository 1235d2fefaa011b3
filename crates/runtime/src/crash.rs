//! Machines that ended without shutting down: what the next boot says about it.

use std::fs;

use crate::launch::Launch;

/// Reason of a guest that ended its virtual machine without shutting down.
pub(crate) const GUEST_CRASHED: &str =
    "its kernel crashed or was reset, or its processor was shut down";

/// Records why a machine crashed, for the user who boots it next.
pub(crate) fn record(launch: &Launch, reason: &str) {
    if let Err(error) = fs::write(launch.crash_file(), reason.trim()) {
        tracing::warn!("cannot record the machine's crash: {error}");
    }
}

/// Returns a note about the crash that the machine's last run ended with, if it did. It is returned
/// once.
pub(crate) fn take_note(launch: &Launch) -> Option<String> {
    let reason = fs::read_to_string(launch.crash_file()).ok()?;
    // If it cannot be removed, the next boot says it again.
    let _ = fs::remove_file(launch.crash_file());
    Some(format!(
        "Machine {id} had crashed and was booted again: {reason} (its console then: container \
         machine logs --boot --previous {id})",
        id = launch.id
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch;

    #[test]
    fn a_crash_is_noted_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut launch = launch::tests::example();
        launch.boot_log = directory.path().join("boot.log");
        assert_eq!(take_note(&launch), None);
        record(&launch, "it burnt");
        let note = take_note(&launch).unwrap();
        assert!(note.contains("it burnt") && note.contains("--previous dev"));
        assert_eq!(take_note(&launch), None);
    }
}
