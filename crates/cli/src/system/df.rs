//! `container system df`

use clap::Args;
use container_api::{Usage, UsageKind};
use container_client::Client;

use crate::{
    failure::Failure,
    format::{FormatError, ListFormat},
    size::size,
    table::{Cell, table},
};

/// Fields for templates.
const FIELDS: &[&str] = &["count", "inUse", "kind", "reclaimable", "size"];

/// Show the disk usage of images, machines, templates and kernels.
///
/// IN USE counts images and base images of machines, running machines, templates that machines can
/// start from, and the default kernel. `container system prune --all` frees what is reclaimable.
/// Machines are removed with `container machine rm`, kernels with `container system kernel rm`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system df
  container system df --format '{{ kind }} {{ size | size }}'")]
pub(crate) struct Df {
    /// Output format: table, json, or a Jinja template such as `{{ kind }} {{ size | size }}`.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = format)]
    format: ListFormat,
}

fn format(word: &str) -> Result<ListFormat, FormatError> {
    ListFormat::parse(word, FIELDS, "{{ kind }} {{ size | size }}")
}

impl Df {
    pub(crate) async fn run(self, build: &str) -> Result<(), Failure> {
        let usage = Client::connect(build).await?.disk_usage().await?.usage;
        self.format.print(&usage, usage_table)
    }
}

fn usage_table(usage: &[Usage], is_coloured: bool) -> String {
    let headings = ["TYPE", "COUNT", "IN USE", "SIZE", "RECLAIMABLE"];
    let row = |usage: &Usage| -> [Cell; 5] {
        [
            name(usage.kind).into(),
            usage.count.into(),
            usage.in_use.into(),
            size(usage.size).into(),
            size(usage.reclaimable).into(),
        ]
    };
    table(headings, usage.iter().map(row), is_coloured)
}

fn name(kind: UsageKind) -> &'static str {
    match kind {
        UsageKind::Images => "images",
        UsageKind::BaseImages => "base images",
        UsageKind::Machines => "machines",
        UsageKind::Templates => "templates",
        UsageKind::Kernels => "kernels",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Vec<Usage> {
        let usage = |kind, count, in_use, size, reclaimable| Usage {
            count,
            in_use,
            kind,
            reclaimable,
            size,
        };
        vec![
            usage(UsageKind::Images, 3, 1, 300 << 20, 120 << 20),
            usage(UsageKind::BaseImages, 1, 1, 260 << 20, 0),
        ]
    }

    #[test]
    fn usage_as_table() {
        let table = usage_table(&usage(), false);
        let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "TYPE         COUNT  IN USE  SIZE       RECLAIMABLE",
                "images       3      1       300.0 MiB  120.0 MiB",
                "base images  1      1       260.0 MiB  0 B",
            ]
        );
    }

    #[test]
    fn templates_know_every_field() {
        let whole = serde_json::to_value(&usage()[0]).unwrap();
        let fields: Vec<&String> = whole.as_object().unwrap().keys().collect();
        assert_eq!(fields, FIELDS);
    }
}
