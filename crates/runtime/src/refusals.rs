//! Notes about connections of the guest to the host's loopback that a setting would allow.

use std::sync::Arc;

use container_machine::MachineId;
use container_network::RefusedPort;
use tokio::sync::mpsc;

use crate::{log::Log, state::MachineState};

/// Writes a note about each refused port to the boot log, and keeps it for the next client that
/// asks, until the network ends.
pub(crate) async fn report(
    mut refused: mpsc::UnboundedReceiver<RefusedPort>,
    id: MachineId,
    machine: Arc<MachineState>,
    boot_log: Log,
) {
    while let Some(refused) = refused.recv().await {
        let note = note(refused, &id);
        tracing::info!("{note}");
        boot_log.append_line(&note);
        machine.add_note(note);
    }
}

fn note(refused: RefusedPort, id: &MachineId) -> String {
    let port = refused.port;
    let mut note = format!(
        "A connection to port {port} of the host's loopback was refused. To allow such \
         connections, set host-loopback = true under [network] in config.toml and restart the \
         machine."
    );
    if !refused.allowed_by_rules {
        note += &format!(
            " The machine's egress rules do not allow this one either. To add a rule: container \
             machine set -n {id} allow+=host.container.internal:{port}"
        );
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_names_the_rule_if_one_is_missing() {
        let id = "dev".parse().unwrap();
        let note = |allowed_by_rules| {
            let refused = RefusedPort {
                port: 8080,
                allowed_by_rules,
            };
            note(refused, &id)
        };
        assert!(note(true).contains("host-loopback = true") && !note(true).contains("allow+="));
        let both = note(false);
        assert!(both.contains("host-loopback = true"), "{both}");
        let rule = "set -n dev allow+=host.container.internal:8080";
        assert!(both.contains(rule), "{both}");
    }
}
