//! `container machine list`

use std::{net::Ipv4Addr, num::NonZeroU32};

use anstyle::{AnsiColor, Style};
use clap::Args;
use container_api::{Machines, Snapshot, Status};
use container_client::Client;
use container_machine::{MachineId, Memory};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::{
    failure::Failure,
    filter::{self, Filter},
    format::Format,
    output,
    size::size,
    table::{Cell, table},
};

/// What a template may name.
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
/// DISK is what a machine's disk takes on this computer, DEFAULT marks the machine that is meant
/// where none is named.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine ls
  container machine ls --filter status=running --filter 'name=web-*'
  container machine ls --format '{{ id }} {{ status }} {{ memory | size }}'
  container machine stop $(container machine ls -q --filter status=running)")]
pub struct List {
    /// How to print them: table, json, or a Jinja template such as `{{ id }} {{ status }}`.
    ///
    /// A template makes one line of each machine. Fields are named as in the JSON; one that is
    /// absent is empty. The filter `size` writes bytes as people read them.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = format)]
    format: Format,

    /// Only machines of which this holds; may be given more than once.
    ///
    /// The keys are id or name, image, status (running, starting, stopped) and default (true,
    /// false). `*` in a name or an image stands for anything. Of several with one key, one must
    /// hold.
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,

    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
}

fn format(word: &str) -> Result<Format, String> {
    Format::parse(word, FIELDS, "{{ id }} {{ status }}")
}

/// A machine in `list --format json`; fields in the order of their names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
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

impl From<Snapshot> for Listed {
    fn from(machine: Snapshot) -> Self {
        Listed {
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
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let Machines {
            mut machines,
            broken,
        } = client.machines().await?;
        for reason in broken {
            output::note(&reason);
        }
        machines.retain(|machine| filter::all_mean(&self.filter, machine));
        let machines: Vec<Listed> = machines.into_iter().map(Listed::from).collect();
        if self.quiet {
            let ids = machines.iter().map(|machine| format!("{}\n", machine.id));
            return output::print(&ids.collect::<String>());
        }
        self.format.print(&machines, |machines, is_coloured| {
            listed(machines, &TimeZone::system(), is_coloured)
        })
    }
}

fn listed(machines: &[Listed], here: &TimeZone, is_coloured: bool) -> String {
    let headings = [
        "NAME", "CREATED", "IP", "CPUS", "MEMORY", "DISK", "STATE", "DEFAULT",
    ];
    let row = |machine: &Listed| -> [Cell; 8] {
        let created = machine.created_date.to_zoned(here.clone());
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
        Status::Stopped => ("stopped", Style::new().dimmed()),
    };
    Cell::styled(word, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn machines() -> Vec<Listed> {
        samples::machines().into_iter().map(Listed::from).collect()
    }

    #[test]
    fn json_stays_as_it_is() {
        insta::assert_snapshot!(
            "list-json",
            serde_json::to_string_pretty(&machines()).unwrap()
        );
    }

    #[test]
    fn the_table_stays_as_it_is() {
        let table = |is_coloured| listed(&machines(), &TimeZone::UTC, is_coloured);
        insta::assert_snapshot!("list-table", table(false));
        insta::assert_snapshot!("list-table-coloured", table(true).replace('\x1b', "\\e"));
        let none = listed(&[], &TimeZone::UTC, false);
        assert_eq!(
            none,
            "NAME  CREATED  IP  CPUS  MEMORY  DISK  STATE  DEFAULT\n"
        );
    }

    #[test]
    fn a_template_may_name_every_field_and_no_other() {
        let whole = serde_json::to_value(&machines()[0]).unwrap();
        let fields: Vec<&String> = whole.as_object().unwrap().keys().collect();
        assert_eq!(fields, FIELDS);
        let error = format("{{ image }}").unwrap_err();
        assert!(error.contains("ipAddress, memory"), "{error}");
        let error = format("xml").unwrap_err();
        assert!(error.contains("table, json"), "{error}");
    }
}
