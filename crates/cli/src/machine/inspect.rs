//! `container machine inspect`

use clap::Args;
use container_api::MachineState;
use container_client::Client;
use container_machine::MachineId;
use serde_json::Value;

use super::target::one_or_default;
use crate::{
    failure::Failure,
    format::{FormatError, InspectFormat},
};

/// Fields for templates.
const FIELDS: &[&str] = &[
    "allow",
    "boot.kind",
    "boot.reason",
    "containerId",
    "cpus",
    "createdDate",
    "diskCapacity",
    "diskSize",
    "egress",
    "homeMount",
    "id",
    "idleSuspend",
    "image.descriptor.digest",
    "image.descriptor.mediaType",
    "image.descriptor.size",
    "image.reference",
    "init",
    "ipAddress",
    "isolated",
    "kernel",
    "kernelArgs",
    "memory",
    "mounts",
    "pauseReason",
    "platform.architecture",
    "platform.os",
    "platform.variant",
    "privateHome",
    "publish",
    "sockets",
    "startedDate",
    "status",
    "userSetup.gid",
    "userSetup.uid",
    "userSetup.username",
    "virtualization",
];

/// Show all details of a machine, as JSON.
///
/// Sizes are in bytes, dates in UTC. Fields without a value, such as the address of a stopped
/// machine, are omitted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine inspect dev
  container machine inspect dev --format '{{ ipAddress }}'
  container machine inspect --format '{{ image.reference }} {{ memory | size }}'")]
pub(crate) struct Inspect {
    /// Machine; default: the default machine.
    id: Option<MachineId>,

    /// Output format: json, or a Jinja template such as `{{ id }} {{ image.reference }}`.
    ///
    /// Fields are named as in the JSON; an absent one is empty. The filter `size` formats bytes
    /// with a unit.
    #[arg(long, value_name = "FORMAT", default_value = "json", hide_default_value = true, value_parser = format)]
    format: InspectFormat,
}

fn format(text: &str) -> Result<InspectFormat, FormatError> {
    InspectFormat::parse(text, FIELDS)
}

impl Inspect {
    /// Prints an array with one object, or one line.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.id).await?;
        let machine = to_json(&client.machine(&id).await?)?;
        self.format.print(&[machine])
    }
}

fn to_json(machine: &MachineState) -> Result<Value, Failure> {
    let mut machine = serde_json::to_value(machine).map_err(Failure::cannot("format as JSON"))?;
    // `default` is not a property of the machine alone; `list` shows it.
    if let Some(fields) = machine.as_object_mut() {
        fields.remove("default");
    }
    Ok(machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;
    use crate::tests::samples::{self, fields};

    #[test]
    fn machine_details_as_json() {
        let machines = samples::machines();
        let json: Vec<Value> = machines.iter().map(|it| to_json(it).unwrap()).collect();
        insta::assert_snapshot!("inspect", serde_json::to_string_pretty(&json[..2]).unwrap());
    }

    #[test]
    fn settings_with_their_default_are_shown() {
        let mut machine = samples::machines().swap_remove(0);
        (machine.isolated, machine.virtualization) = (false, false);
        (machine.home_mount, machine.idle_suspend) = Default::default();
        (machine.allow, machine.mounts) = Default::default();
        let machine = to_json(&machine).unwrap();
        let text = "{{ isolated }} {{ homeMount }} {{ virtualization }} {{ idleSuspend }} \
                    {{ allow }} {{ mounts }}";
        let template = Template::parse(text, FIELDS).unwrap();
        assert_eq!(
            template.render(&machine).unwrap(),
            "False rw False off [] []"
        );
    }

    #[test]
    fn templates_know_every_field() {
        let machine = to_json(&samples::machines()[0]).unwrap();
        assert_eq!(fields("", &machine), FIELDS);
        let text = "{{ id }}: {{ image.reference }}, {{ memory | size }}, <{{ kernel }}>";
        let template = Template::parse(text, FIELDS).unwrap();
        assert_eq!(
            template.render(&machine).unwrap(),
            "dev: 127.0.0.1:5000/machines/debian:12, 11.8 GiB, </boot/vmlinuz>"
        );
        assert!(format("{{ default }}").is_err());
        assert!(format("yaml").is_err());
        assert!(matches!(format("json"), Ok(InspectFormat::Json)));
    }
}
