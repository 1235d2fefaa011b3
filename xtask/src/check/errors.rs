//! An error's text contains its cause, or `source()` returns it, but not both: otherwise a printed
//! chain of causes repeats messages.

use std::path::PathBuf;

use anyhow::{Context, Result};
use syn::{Attribute, Fields, Item, LitStr, visit::Visit};

use super::source::{Violation, read};

/// Checks the `thiserror` types in the crates' sources.
pub(super) fn check(files: &[PathBuf]) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for file in files {
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = read(file)?;
        let syntax =
            syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        let mut visitor = Errors::default();
        visitor.visit_file(&syntax);
        violations.extend(visitor.lines.into_iter().map(|line| Violation {
            file: file.clone(),
            line,
            rule: "the error's text repeats its source (docs/style.md)".to_owned(),
        }));
    }
    Ok(violations)
}

#[derive(Default)]
struct Errors {
    lines: Vec<usize>,
}

impl<'ast> Visit<'ast> for Errors {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Enum(item) => {
                for variant in &item.variants {
                    self.check(&variant.attrs, &variant.fields);
                }
            }
            Item::Struct(item) => self.check(&item.attrs, &item.fields),
            _ => {}
        }
        syn::visit::visit_item(self, item);
    }
}

impl Errors {
    /// `thiserror` takes as the source a field with `#[source]` or `#[from]`, or named `source`.
    fn check(&mut self, attributes: &[Attribute], fields: &Fields) {
        let Some(format) = attributes.iter().find_map(error_format) else {
            return;
        };
        let source = fields.iter().enumerate().find(|(_, field)| {
            let is_marked = |name| {
                field
                    .attrs
                    .iter()
                    .any(|attribute| attribute.path().is_ident(name))
            };
            is_marked("source")
                || is_marked("from")
                || field.ident.as_ref().is_some_and(|name| name == "source")
        });
        let Some((index, field)) = source else { return };
        let name = field
            .ident
            .as_ref()
            .map_or_else(|| index.to_string(), ToString::to_string);
        if mentions(&format.value(), &name) {
            self.lines.push(format.span().start().line);
        }
    }
}

/// The text in `#[error("…")]`; `transparent` has none.
fn error_format(attribute: &Attribute) -> Option<LitStr> {
    if !attribute.path().is_ident("error") {
        return None;
    }
    attribute
        .parse_args_with(|input: syn::parse::ParseStream<'_>| {
            let format = input.parse::<LitStr>()?;
            // Further arguments of the format string.
            input.parse::<proc_macro2::TokenStream>()?;
            Ok(format)
        })
        .ok()
}

/// Whether a format string prints this field.
fn mentions(format: &str, field: &str) -> bool {
    format
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split(['}', ':']).next())
        .any(|argument| argument.trim() == field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<usize> {
        let mut visitor = Errors::default();
        visitor.visit_file(&syn::parse_str(source).unwrap());
        visitor.lines
    }

    #[test]
    fn a_text_that_repeats_its_source_is_found() {
        assert_eq!(
            lines(
                "enum E {\n#[error(\"cannot read {path}: {source}\")]\nRead { path: String, source: io::Error },\n}"
            ),
            [2]
        );
        assert_eq!(
            lines("enum E { #[error(\"cannot read: {0:?}\")] Read(#[from] io::Error) }"),
            [1]
        );
        assert_eq!(
            lines("#[error(\"{why}\")]\nstruct E { #[source] why: io::Error }"),
            [1]
        );
    }

    #[test]
    fn one_of_both_is_allowed() {
        let source = "enum E {
            #[error(transparent)] Same(#[from] io::Error),
            #[error(\"cannot read {path}: {cause}\")] Text { path: String, cause: io::Error },
            #[error(\"cannot read {path}\")] Chain { path: String, source: io::Error },
        }";
        assert_eq!(lines(source), [0; 0]);
    }
}
