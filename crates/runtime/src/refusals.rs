//! Notes about connections of the guest to the host's loopback that a setting would allow.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{log::Log, state::MachineState};

/// Writes a note about each refused port to the boot log, and keeps it for the next client that
/// asks, until the network ends.
pub(crate) async fn report(
    mut refused: mpsc::UnboundedReceiver<u16>,
    machine: Arc<MachineState>,
    boot_log: Log,
) {
    while let Some(port) = refused.recv().await {
        let note = format!(
            "A connection to port {port} of the host's loopback was refused. To allow such \
             connections, set host-loopback = true under [network] in config.toml and restart the \
             machine."
        );
        tracing::info!("{note}");
        boot_log.append_line(&note);
        machine.add_note(note);
    }
}
