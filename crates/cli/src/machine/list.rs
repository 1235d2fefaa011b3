//! `container machine list`

use std::{net::Ipv4Addr, num::NonZeroU32};

use clap::{Args, ValueEnum};
use container_api::{Snapshot, Status};
use container_client::Client;
use container_machine::{MachineId, Memory};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::{failure::Failure, output};

/// List machines.
#[derive(Debug, Args)]
pub struct List {
    /// How to print them.
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
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
    /// Prints all machines.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let machines = client.machines().await?;
        let machines: Vec<Listed> = machines.into_iter().map(Listed::from).collect();
        if self.quiet {
            let ids = machines.iter().map(|machine| format!("{}\n", machine.id));
            return output::print(&ids.collect::<String>());
        }
        match self.format {
            Format::Json => output::json(&machines),
            Format::Table => output::table(
                [
                    "NAME", "CREATED", "IP", "CPUS", "MEMORY", "DISK", "STATE", "DEFAULT",
                ],
                &machines.iter().map(row).collect::<Vec<_>>(),
            ),
        }
    }
}

fn row(machine: &Listed) -> [String; 8] {
    [
        machine.id.to_string(),
        local_time(machine.created_date),
        machine
            .ip_address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        machine.cpus.to_string(),
        machine.memory.to_string(),
        size(machine.disk_size),
        state(machine.status).to_owned(),
        if machine.default { "*" } else { "" }.to_owned(),
    ]
}

fn local_time(timestamp: Timestamp) -> String {
    let here = timestamp.to_zoned(TimeZone::system());
    here.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn state(status: Status) -> &'static str {
    match status {
        Status::Running => "running",
        Status::Starting => "starting",
        Status::Stopped => "stopped",
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / f64::from(1u32 << shift)),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(200 << 20), "200.0 MiB");
        assert_eq!(size(3 << 30), "3.0 GiB");
    }
}
