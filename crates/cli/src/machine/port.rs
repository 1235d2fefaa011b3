//! `container machine port`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;
use container_protocol::{
    Transport,
    local::{Blocked, BlockedDestination, BlockedKind, PortStatus},
};
use jiff::Timestamp;
use serde::Serialize;

use super::target::one_or_default;
use crate::{
    control_characters,
    failure::Failure,
    format::{FormatError, ListFormat},
    table::{Cell, table},
};

/// Fields for templates: those of ports, and those of blocked destinations.
const FIELDS: &[&str] = &[
    "count",
    "destination",
    "host",
    "kind",
    "lastDate",
    "port",
    "problem",
    "process",
    "published",
    "transport",
];

/// Show the host addresses of a running machine's ports.
///
/// Every port with a listener in the machine can be reached at the machine's own address. A
/// published port can be reached at its host address as well. NOTE says why a port cannot be
/// reached. The last line is about attempts of the machine to reach what its egress rules do not
/// allow, if there were any since its boot.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine port
  container machine port dev --format '{{ host }} {{ process }}'
  container machine port dev --blocked")]
pub(crate) struct Port {
    /// Machine; default: the default machine.
    id: Option<MachineId>,

    /// Show the latest destinations that the machine's egress rules have blocked.
    #[arg(long)]
    blocked: bool,

    /// Output format: table, json, or a Jinja template such as `{{ host }} {{ process }}`.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = format)]
    format: ListFormat,
}

fn format(word: &str) -> Result<ListFormat, FormatError> {
    ListFormat::parse(word, FIELDS, "{{ host }} {{ port }}")
}

impl Port {
    /// Prints the ports.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.id).await?;
        let answer = client.ports(&id).await?;
        if self.blocked {
            let latest = answer.blocked.latest.iter().map(BlockedRow::new);
            return self
                .format
                .print(&latest.collect::<Vec<_>>(), blocked_table);
        }
        self.format.print(&answer.ports, |ports, is_coloured| {
            port_table(ports, is_coloured) + &blocked_line(&answer.blocked)
        })
    }
}

/// A destination that was blocked, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockedRow {
    count: u64,
    destination: String,
    kind: BlockedKind,
    last_date: Timestamp,
}

impl BlockedRow {
    fn new(blocked: &BlockedDestination) -> BlockedRow {
        let seconds = i64::try_from(blocked.last_seconds).unwrap_or(i64::MAX);
        BlockedRow {
            count: blocked.count,
            destination: blocked.destination.clone(),
            kind: blocked.kind,
            last_date: Timestamp::from_second(seconds).unwrap_or_default(),
        }
    }
}

/// Returns a line about blocked attempts, or nothing if there were none.
fn blocked_line(blocked: &Blocked) -> String {
    let Some(last) = blocked.latest.first() else {
        return String::new();
    };
    let attempts = match blocked.total {
        1 => "1 attempt".to_owned(),
        total => format!("{total} attempts"),
    };
    let kind = kind_name(last.kind);
    let destination = control_characters::shown(&last.destination);
    format!("blocked: {attempts}, last to {destination} ({kind})\n")
}

fn kind_name(kind: BlockedKind) -> &'static str {
    match kind {
        BlockedKind::Tcp => "tcp",
        BlockedKind::Udp => "udp",
        BlockedKind::Icmp => "icmp",
        BlockedKind::Dns => "dns",
    }
}

fn blocked_table(rows: &[BlockedRow], is_coloured: bool) -> String {
    let headings = ["DESTINATION", "KIND", "COUNT", "LAST"];
    let row = |blocked: &BlockedRow| -> [Cell; 4] {
        [
            blocked.destination.as_str().into(),
            kind_name(blocked.kind).into(),
            blocked.count.into(),
            blocked.last_date.into(),
        ]
    };
    table(headings, rows.iter().map(row), is_coloured)
}

fn port_table(ports: &[PortStatus], is_coloured: bool) -> String {
    let headings = ["HOST", "PORT", "PROCESS", "NOTE"];
    let row = |port: &PortStatus| -> [Cell; 4] {
        let transport = match port.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let note = match (&port.problem, port.published) {
            (Some(problem), _) => problem.as_str(),
            (None, true) => "published",
            (None, false) => "",
        };
        [
            port.host.to_string().into(),
            format!("{}/{transport}", port.port).into(),
            port.process.as_deref().unwrap_or_default().into(),
            note.into(),
        ]
    };
    table(headings, ports.iter().map(row), is_coloured)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Vec<PortStatus> {
        let reached = PortStatus {
            host: "127.19.7.142:8080".parse().unwrap(),
            port: 8080,
            problem: None,
            process: Some("python3".to_owned()),
            published: false,
            transport: Transport::Tcp,
        };
        let published = PortStatus {
            host: "0.0.0.0:53".parse().unwrap(),
            port: 5353,
            problem: None,
            process: None,
            published: true,
            transport: Transport::Udp,
        };
        let held = PortStatus {
            host: "127.19.7.142:22".parse().unwrap(),
            port: 22,
            problem: Some("another program on this host listens on 127.19.7.142:22".to_owned()),
            process: Some("sshd".to_owned()),
            ..reached.clone()
        };
        vec![held, published, reached]
    }

    #[test]
    fn ports_as_table() {
        insta::assert_snapshot!("port-table", port_table(&ports(), false));
    }

    fn blocked() -> Blocked {
        let last = BlockedDestination {
            count: 2,
            destination: "example.org:443".to_owned(),
            kind: BlockedKind::Tcp,
            last_seconds: 1_764_023_460,
        };
        let lookup = BlockedDestination {
            count: 1,
            destination: "secret\u{1b}.example.org".to_owned(),
            kind: BlockedKind::Dns,
            ..last.clone()
        };
        Blocked {
            total: 3,
            latest: vec![last, lookup],
        }
    }

    #[test]
    fn blocked_attempts_as_line_and_table() {
        let rows: Vec<BlockedRow> = blocked().latest.iter().map(BlockedRow::new).collect();
        insta::assert_snapshot!("blocked-table", blocked_table(&rows, false));
        assert_eq!(
            blocked_line(&blocked()),
            "blocked: 3 attempts, last to example.org:443 (tcp)\n"
        );
        assert_eq!(blocked_line(&Blocked::default()), "");
    }

    #[test]
    fn templates_know_every_field() {
        let mut fields: Vec<String> = Vec::new();
        let ports = ports()
            .into_iter()
            .map(|it| serde_json::to_value(it).unwrap());
        let blocked = blocked().latest;
        let blocked = blocked
            .iter()
            .map(|it| serde_json::to_value(BlockedRow::new(it)).unwrap());
        for whole in ports.chain(blocked) {
            fields.extend(whole.as_object().unwrap().keys().cloned());
        }
        fields.sort();
        fields.dedup();
        assert_eq!(fields, FIELDS);
    }
}
