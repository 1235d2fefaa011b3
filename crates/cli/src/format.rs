//! How lists are printed.

use serde::Serialize;

use crate::{failure::Failure, output, template::Template};

/// What `--format` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// A line for each.
    Template(Template),
}

impl Format {
    /// Reads a format for things with these fields; `example` is a template that they have.
    pub fn parse(word: &str, fields: &[&'static str], example: &str) -> Result<Format, String> {
        match word {
            "table" => Ok(Format::Table),
            "json" => Ok(Format::Json),
            template if template.contains("{{") || template.contains("{%") => {
                Ok(Format::Template(Template::parse(template, fields)?))
            }
            _ => Err(format!(
                "there are table, json and templates such as '{example}'"
            )),
        }
    }

    /// Prints all of these; `table` makes the table, coloured or not.
    pub fn print<T: Serialize>(
        &self,
        all: &[T],
        table: impl FnOnce(&[T], bool) -> String,
    ) -> Result<(), Failure> {
        match self {
            Format::Json => output::json(&all),
            Format::Table => output::print(&table(all, output::is_coloured(&std::io::stdout()))),
            Format::Template(template) => {
                let lines = all.iter().map(|one| template.render(one));
                let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
                let lines = lines.iter().map(|line| format!("{line}\n"));
                output::print(&lines.collect::<String>())
            }
        }
    }
}
