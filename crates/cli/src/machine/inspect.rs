//! `container machine inspect`

use clap::Args;
use container_api::Snapshot;
use container_client::Client;
use container_machine::MachineId;
use serde_json::Value;

use super::one_or_default;
use crate::{failure::Failure, format::WholeFormat};

/// What a template may name.
const FIELDS: &[&str] = &[
    "containerId",
    "cpus",
    "createdDate",
    "diskCapacity",
    "diskSize",
    "homeMount",
    "id",
    "image.descriptor.digest",
    "image.descriptor.mediaType",
    "image.descriptor.size",
    "image.reference",
    "init",
    "ipAddress",
    "kernel",
    "kernelArgs",
    "memory",
    "platform.architecture",
    "platform.os",
    "platform.variant",
    "publish",
    "startedDate",
    "status",
    "userSetup.gid",
    "userSetup.uid",
    "userSetup.username",
    "virtualization",
];

/// Show all that is known of a machine, as JSON.
///
/// Sizes are in bytes, dates in UTC. What a machine does not have, an address while it is stopped
/// say, is left out.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine inspect dev
  container machine inspect dev --format '{{ ipAddress }}'
  container machine inspect --format '{{ image.reference }} {{ memory | size }}'")]
pub struct Inspect {
    /// The machine; the default one where it is left out.
    id: Option<MachineId>,

    /// Print json, or what this Jinja template makes of it: `{{ id }} {{ image.reference }}`.
    ///
    /// Fields are named as in the JSON; one that is absent is empty. The filter `size` writes bytes
    /// as people read them.
    #[arg(long, value_name = "FORMAT", default_value = "json", hide_default_value = true, value_parser = format)]
    format: WholeFormat,
}

fn format(text: &str) -> Result<WholeFormat, String> {
    WholeFormat::parse(text, FIELDS)
}

impl Inspect {
    /// Prints an array of one object, or what the template makes of it.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.id).await?;
        let machine = inspected(&client.machine(&id).await?)?;
        self.format.print(&[machine])
    }
}

fn inspected(machine: &Snapshot) -> Result<Value, Failure> {
    let mut machine = serde_json::to_value(machine)?;
    // What depends on other machines is for `list` to say.
    if let Some(fields) = machine.as_object_mut() {
        fields.remove("default");
    }
    Ok(machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{self, fields};
    use crate::template::Template;

    #[test]
    fn a_machine_is_told_whole() {
        let machines = samples::machines();
        let told: Vec<Value> = machines.iter().map(|it| inspected(it).unwrap()).collect();
        insta::assert_snapshot!("inspect", serde_json::to_string_pretty(&told[..2]).unwrap());
    }

    #[test]
    fn a_template_may_name_every_field_and_no_other() {
        let whole = inspected(&samples::machines()[0]).unwrap();
        assert_eq!(fields("", &whole), FIELDS);
        let text = "{{ id }}: {{ image.reference }}, {{ memory | size }}, <{{ kernel }}>";
        let template = Template::parse(text, FIELDS).unwrap();
        assert_eq!(
            template.render(&whole).unwrap(),
            "dev: 127.0.0.1:5000/machines/debian:12, 11.8 GiB, </boot/vmlinuz>"
        );
        assert!(format("{{ default }}").is_err());
        assert!(format("yaml").is_err());
        assert!(matches!(format("json"), Ok(WholeFormat::Json)));
    }
}
