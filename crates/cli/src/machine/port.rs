//! `container machine port`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;
use container_protocol::{Transport, local::PortStatus};

use super::target::one_or_default;
use crate::{
    failure::Failure,
    format::{FormatError, ListFormat},
    table::{Cell, table},
};

/// Fields for templates.
const FIELDS: &[&str] = &[
    "host",
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
/// reached.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine port
  container machine port dev --format '{{ host }} {{ process }}'")]
pub(crate) struct Port {
    /// Machine; default: the default machine.
    id: Option<MachineId>,

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
        let ports = client.ports(&id).await?.ports;
        self.format.print(&ports, port_table)
    }
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

    #[test]
    fn templates_know_every_field() {
        let mut fields: Vec<String> = Vec::new();
        for port in ports() {
            let whole = serde_json::to_value(port).unwrap();
            fields.extend(whole.as_object().unwrap().keys().cloned());
        }
        fields.sort();
        fields.dedup();
        assert_eq!(fields, FIELDS);
    }
}
