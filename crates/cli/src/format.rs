//! `--format` of the verbs that list or inspect.

use serde::Serialize;

use crate::{
    failure::Failure,
    output,
    template::{Template, TemplateError},
};

/// Format of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListFormat {
    /// Columns with headings, for people.
    Table,
    /// One array.
    Json,
    /// One line for each item.
    Template(Template),
}

/// Error of parsing a format.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    /// Neither a known format nor a template.
    #[error("not a format (available: table, json, a template such as '{example}')")]
    UnknownList { example: String },
    /// Neither `json` nor a template.
    #[error("not a format (available: json, a template with {{{{ fields }}}})")]
    UnknownInspect,
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl ListFormat {
    /// Parses a format for items with these fields. `example` is a valid template for them.
    pub(crate) fn parse(
        text: &str,
        fields: &[&'static str],
        example: &str,
    ) -> Result<ListFormat, FormatError> {
        match text {
            "table" => Ok(ListFormat::Table),
            "json" => Ok(ListFormat::Json),
            _ if is_template(text) => Ok(ListFormat::Template(Template::parse(text, fields)?)),
            _ => Err(FormatError::UnknownList {
                example: example.to_owned(),
            }),
        }
    }

    /// Prints the items. `table` returns the table for them, coloured or not.
    pub(crate) fn print<T: Serialize>(
        &self,
        items: &[T],
        table: impl FnOnce(&[T], bool) -> String,
    ) -> Result<(), Failure> {
        match self {
            ListFormat::Json => output::json(&items),
            ListFormat::Table => {
                output::print(&table(items, output::is_coloured(&std::io::stdout())))
            }
            ListFormat::Template(template) => {
                // All lines are rendered before the first is printed: a failure prints none.
                let lines = items.iter().map(|item| template.render(item));
                let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
                let lines = lines.iter().map(|line| format!("{line}\n"));
                output::print(&lines.collect::<String>())
            }
        }
    }
}

/// Format of items that are shown with all their fields.
#[derive(Debug, Clone)]
pub(crate) enum InspectFormat {
    /// One array.
    Json,
    /// One line for each item.
    Template(Template),
}

impl InspectFormat {
    /// Parses a format for items with these fields.
    pub(crate) fn parse(text: &str, fields: &[&'static str]) -> Result<InspectFormat, FormatError> {
        match text {
            "json" => Ok(InspectFormat::Json),
            _ if is_template(text) => Ok(InspectFormat::Template(Template::parse(text, fields)?)),
            _ => Err(FormatError::UnknownInspect),
        }
    }

    /// Prints the items.
    pub(crate) fn print<T: Serialize>(&self, items: &[T]) -> Result<(), Failure> {
        match self {
            InspectFormat::Json => output::json(&items),
            InspectFormat::Template(template) => items
                .iter()
                .try_for_each(|item| output::line(template.render(item)?)),
        }
    }
}

fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}
