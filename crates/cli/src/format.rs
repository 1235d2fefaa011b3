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

/// How things are printed that are told whole.
#[derive(Debug, Clone)]
pub enum WholeFormat {
    /// An array.
    Json,
    /// What a template makes of each.
    Template(Template),
}

impl WholeFormat {
    /// Reads a format for things with these fields.
    pub fn parse(text: &str, fields: &[&'static str]) -> Result<WholeFormat, String> {
        match text {
            "json" => Ok(WholeFormat::Json),
            _ if text.contains("{{") || text.contains("{%") => {
                Template::parse(text, fields).map(WholeFormat::Template)
            }
            _ => Err("there are json and templates with {{ fields }}".to_owned()),
        }
    }

    /// Prints all of these.
    pub fn print<T: Serialize>(&self, all: &[T]) -> Result<(), Failure> {
        match self {
            WholeFormat::Json => output::json(&all),
            WholeFormat::Template(template) => all
                .iter()
                .try_for_each(|one| output::line(template.render(one)?)),
        }
    }
}
