//! `container system kernel list`

use std::path::PathBuf;

use clap::Args;
use container_kernel::Kernels;
use serde::Serialize;

use crate::{failure::Failure, format::Format, table::table};

/// What a template may name.
const FIELDS: &[&str] = &["default", "image", "name", "release", "source"];

/// List the kernels that there are.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system kernel ls
  container system kernel ls --format '{{ name }} {{ image }}'")]
pub struct List {
    /// How to print them: table, json, or a Jinja template such as `{{ name }} {{ release }}`.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = format)]
    format: Format,
}

/// A kernel, as it is printed.
#[derive(Debug, Serialize)]
struct Listed {
    /// Machines boot it that name no other.
    default: bool,
    image: PathBuf,
    name: String,
    release: String,
    source: String,
}

fn format(word: &str) -> Result<Format, String> {
    Format::parse(word, FIELDS, "{{ name }} {{ release }}")
}

impl List {
    pub fn carry_out(self, kernels: &Kernels) -> Result<(), Failure> {
        let used = kernels.default_kernel().ok().map(|it| it.name);
        let all: Vec<Listed> = kernels
            .all()?
            .into_iter()
            .map(|kernel| Listed {
                default: used.as_ref() == Some(&kernel.name),
                image: kernel.image,
                name: kernel.name.to_string(),
                release: kernel.about.release,
                source: kernel.about.source,
            })
            .collect();
        self.format.print(&all, listed)
    }
}

fn listed(all: &[Listed], is_coloured: bool) -> String {
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
    fn the_table_stays_as_it_is() {
        let kernel = |name: &str, default: bool| Listed {
            default,
            image: "/k/vmlinux".into(),
            name: name.to_owned(),
            release: format!("6.12.9-{name}"),
            source: "a package".to_owned(),
        };
        let all = [kernel("container", true), kernel("debian", false)];
        insta::assert_snapshot!("kernel-table", listed(&all, false));
        let whole = serde_json::to_value(&all[0]).unwrap();
        let fields: Vec<&String> = whole.as_object().unwrap().keys().collect();
        assert_eq!(fields, FIELDS);
    }
}
