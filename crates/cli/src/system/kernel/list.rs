//! `container system kernel list`

use std::path::PathBuf;

use clap::Args;
use container_kernel::Kernels;
use serde::Serialize;

use crate::{
    failure::Failure,
    format::{FormatError, ListFormat},
    table::table,
};

/// Fields for templates.
const FIELDS: &[&str] = &["default", "image", "name", "release", "source"];

/// List kernels.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system kernel ls
  container system kernel ls --format '{{ name }} {{ image }}'")]
pub(crate) struct List {
    /// Output format: table, json, or a Jinja template such as `{{ name }} {{ release }}`.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = format)]
    format: ListFormat,
}

/// A kernel as it is printed. The fields' names are those of the JSON output.
#[derive(Debug, Serialize)]
struct ListedKernel {
    /// Whether machines boot it by default.
    default: bool,
    image: PathBuf,
    name: String,
    release: String,
    source: String,
}

fn format(word: &str) -> Result<ListFormat, FormatError> {
    ListFormat::parse(word, FIELDS, "{{ name }} {{ release }}")
}

impl List {
    pub(crate) fn run(self, kernels: &Kernels) -> Result<(), Failure> {
        let used = kernels.default_kernel().ok().map(|it| it.name);
        let all: Vec<ListedKernel> = kernels
            .all()?
            .into_iter()
            .map(|kernel| ListedKernel {
                default: used.as_ref() == Some(&kernel.name),
                image: kernel.image,
                name: kernel.name.to_string(),
                release: kernel.metadata.release,
                source: kernel.metadata.source,
            })
            .collect();
        self.format.print(&all, kernel_table)
    }
}

fn kernel_table(all: &[ListedKernel], is_coloured: bool) -> String {
    let rows = all.iter().map(|it| {
        let default = if it.default { "*" } else { "" };
        [&it.name, &it.release, &it.source, default].map(Into::into)
    });
    table(["NAME", "RELEASE", "SOURCE", "DEFAULT"], rows, is_coloured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_as_table() {
        let kernel = |name: &str, default: bool| ListedKernel {
            default,
            image: "/k/vmlinux".into(),
            name: name.to_owned(),
            release: format!("6.12.9-{name}"),
            source: "a package".to_owned(),
        };
        let all = [kernel("container", true), kernel("debian", false)];
        insta::assert_snapshot!("kernel-table", kernel_table(&all, false));
        let whole = serde_json::to_value(&all[0]).unwrap();
        let fields: Vec<&String> = whole.as_object().unwrap().keys().collect();
        assert_eq!(fields, FIELDS);
    }
}
