//! `container machine inspect`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use super::one_or_default;
use crate::{failure::Failure, output};

/// Show all that is known of a machine, as JSON.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The machine; the default one where it is left out.
    id: Option<MachineId>,
}

impl Inspect {
    /// Prints an array of one object.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.id).await?;
        let mut machine = serde_json::to_value(client.machine(&id).await?)?;
        // What depends on other machines is for `list` to say.
        if let Some(fields) = machine.as_object_mut() {
            fields.remove("default");
        }
        output::json(&[machine])
    }
}
