//! `container machine list`

use std::{net::Ipv4Addr, num::NonZeroU32};

use anstyle::{AnsiColor, Style};
use clap::Args;
use container_api::{MachineState, Machines, Status};
use container_client::Client;
use container_machine::{MachineId, Memory};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::filter::MachineFilter;
use crate::{
    failure::Failure,
    filter,
    format::{FormatError, ListFormat},
    output,
    size::size,
    table::{Cell, table},
};

/// Fields for templates.
const FIELDS: &[&str] = &[
    "cpus",
    "createdDate",
    "default",
    "diskSize",
    "id",
    "ipAddress",
    "memory",
    "status",
];

/// List machines, running or not.
///
/// DISK is the space that a machine's disk takes on the host. DEFAULT marks the default machine,
/// which verbs use if no machine is given.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine ls
  container machine ls --filter status=running --filter 'name=web-*'
  container machine ls --format '{{ id }} {{ status }} {{ memory | size }}'
  container machine stop $(container machine ls -q --filter status=running)")]
pub(crate) struct List {
    /// Output format: table, json, or a Jinja template such as `{{ id }} {{ status }}`.
    ///
    /// A template prints one line per machine. Fields are named as in the JSON; an absent one is
    /// empty. The filter `size` formats bytes with a unit.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = format)]
    format: ListFormat,

    /// Condition for the listed machines; repeatable.
    ///
    /// The keys are id or name, image, status (running, starting, paused, unresponsive, suspended,
    /// stopped) and default (true, false). `*` in a name or an image matches any text. Of several
    /// conditions with the same key, one must match.
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<MachineFilter>,

    /// Print only ids.
    #[arg(short, long)]
    quiet: bool,
}

fn format(word: &str) -> Result<ListFormat, FormatError> {
    ListFormat::parse(word, FIELDS, "{{ id }} {{ status }}")
}

/// Machine in `list --format json`, with fields in alphabetical order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedMachine {
    cpus: NonZeroU32,
    created_date: Timestamp,
    default: bool,
    disk_size: u64,
    id: MachineId,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_address: Option<Ipv4Addr>,
    memory: Memory,
    status: Status,
}

impl From<MachineState> for ListedMachine {
    fn from(machine: MachineState) -> Self {
        ListedMachine {
            cpus: machine.cpus,
            created_date: machine.created_date,
            default: machine.default,
            disk_size: machine.disk_size,
            id: machine.id,
            ip_address: machine.ip_address,
            memory: machine.memory,
            status: machine.status,
        }
    }
}

impl List {
    /// Prints the machines.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let Machines {
            mut machines,
            broken,
        } = client.machines().await?;
        for reason in broken {
            output::note(&reason);
        }
        machines.retain(|machine| filter::matches_all(&self.filter, machine));
        let machines: Vec<ListedMachine> = machines.into_iter().map(ListedMachine::from).collect();
        if self.quiet {
            let ids = machines.iter().map(|machine| format!("{}\n", machine.id));
            return output::print(&ids.collect::<String>());
        }
        self.format.print(&machines, |machines, is_coloured| {
            machine_table(machines, &TimeZone::system(), is_coloured)
        })
    }
}

fn machine_table(machines: &[ListedMachine], here: &TimeZone, is_coloured: bool) -> String {
    let headings = [
        "NAME", "CREATED", "IP", "CPUS", "MEMORY", "DISK", "STATE", "DEFAULT",
    ];
    let row = |machine: &ListedMachine| -> [Cell; 8] {
        let created = machine.created_date.to_zoned_datetime(here.clone());
        let address = machine.ip_address.map(|address| address.to_string());
        [
            (&machine.id).into(),
            created.strftime("%Y-%m-%d %H:%M:%S").into(),
            address.unwrap_or_default().into(),
            machine.cpus.into(),
            size(machine.memory.bytes()).into(),
            size(machine.disk_size).into(),
            state(machine.status),
            if machine.default { "*" } else { "" }.into(),
        ]
    };
    table(headings, machines.iter().map(row), is_coloured)
}

fn state(status: Status) -> Cell {
    let (word, style) = match status {
        Status::Running => ("running", AnsiColor::Green.on_default()),
        Status::Starting => ("starting", AnsiColor::Yellow.on_default()),
        Status::Paused => ("paused", AnsiColor::Red.on_default()),
        Status::Unresponsive => ("unresponsive", AnsiColor::Red.on_default()),
        Status::Suspended => ("suspended", AnsiColor::Cyan.on_default()),
        Status::Stopped => ("stopped", Style::new().dimmed()),
    };
    Cell::styled(word, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    fn machines() -> Vec<ListedMachine> {
        samples::machines()
            .into_iter()
            .map(ListedMachine::from)
            .collect()
    }

    #[test]
    fn machines_as_json() {
        insta::assert_snapshot!(
            "list-json",
            serde_json::to_string_pretty(&machines()).unwrap()
        );
    }

    #[test]
    fn machines_as_table() {
        let table = |is_coloured| machine_table(&machines(), &TimeZone::UTC, is_coloured);
        insta::assert_snapshot!("list-table", table(false));
        insta::assert_snapshot!("list-table-coloured", table(true).replace('\x1b', "\\e"));
        let none = machine_table(&[], &TimeZone::UTC, false);
        assert_eq!(
            none,
            "NAME  CREATED  IP  CPUS  MEMORY  DISK  STATE  DEFAULT\n"
        );
    }

    #[test]
    fn templates_know_every_field() {
        let machine = serde_json::to_value(&machines()[0]).unwrap();
        let fields: Vec<&String> = machine.as_object().unwrap().keys().collect();
        assert_eq!(fields, FIELDS);
        let error = format("{{ image }}").unwrap_err().to_string();
        assert!(error.contains("ipAddress, memory"), "{error}");
        let error = format("xml").unwrap_err().to_string();
        assert!(error.contains("table, json"), "{error}");
    }
}
