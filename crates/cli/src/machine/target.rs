//! The machines that a verb acts on.

use container_client::Client;
use container_machine::MachineId;

use crate::failure::Failure;

/// Returns the given machine, or the default machine.
pub(super) async fn one_or_default(
    client: &Client,
    id: Option<MachineId>,
) -> Result<MachineId, Failure> {
    match id {
        Some(id) => Ok(id),
        None => Ok(client.default_machine().await?),
    }
}

/// Returns the given machines, or the default machine.
pub(super) async fn all_or_default(
    client: &Client,
    ids: Vec<MachineId>,
) -> Result<Vec<MachineId>, Failure> {
    if ids.is_empty() {
        return Ok(vec![client.default_machine().await?]);
    }
    Ok(ids)
}
