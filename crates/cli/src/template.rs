//! Templates for `--format`: Jinja, as implemented by minijinja.
//!
//! As a convenience for users of docker and podman, a field may also be written as in Go templates,
//! `{{.id}}`, and in any case.

use std::collections::BTreeMap;

use minijinja::{Environment, Value};
use serde::Serialize;

use crate::size::size;

/// Template that only names known fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    source: String,
    /// Outermost names used in the template, each with the field that it stands for.
    names: BTreeMap<String, &'static str>,
}

/// Error of parsing or rendering a template.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    /// A name in the template is not a field.
    #[error("field {path:?} not found (available: {})", fields.join(", "))]
    UnknownField {
        path: String,
        fields: Vec<&'static str>,
    },
    /// The template is malformed, or uses a filter or function in a wrong way.
    #[error("invalid template: {}", in_one_line(.0))]
    Invalid(minijinja::Error),
    /// The value has no JSON form.
    #[error("cannot format as JSON: {0}")]
    Value(serde_json::Error),
}

impl Template {
    /// Parses a template for values with these fields. A nested field is written `outer.inner`, and
    /// `outer.*` stands for any field in `outer`.
    pub(crate) fn parse(text: &str, fields: &[&'static str]) -> Result<Template, TemplateError> {
        let source = without_leading_dots(&text.replace("\\t", "\t").replace("\\n", "\n"));
        let environment = environment();
        let template = environment
            .template_from_str(&source)
            .map_err(TemplateError::Invalid)?;
        let mut names = BTreeMap::new();
        for path in template.undeclared_variables(true) {
            let Some(field) = fields.iter().find(|field| is_prefix(&path, field)) else {
                let is_global = environment.globals().any(|(name, _)| name == path);
                if is_global {
                    continue;
                }
                return Err(TemplateError::UnknownField {
                    path,
                    fields: fields.to_vec(),
                });
            };
            names.insert(outermost(&path).to_owned(), outermost(field));
        }
        Ok(Template { source, names })
    }

    /// Renders the template with the fields of `value`. A field that is absent renders as nothing.
    pub(crate) fn render(&self, value: &impl Serialize) -> Result<String, TemplateError> {
        let fields = serde_json::to_value(value).map_err(TemplateError::Value)?;
        let named = self.names.iter().map(|(name, field)| {
            let value = fields.get(field).filter(|value| !value.is_null());
            let value = value.map_or(Value::from(""), Value::from_serialize);
            (name.as_str(), value)
        });
        let context: BTreeMap<&str, Value> = named.collect();
        environment()
            .render_str(&self.source, context)
            .map_err(TemplateError::Invalid)
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.add_filter("size", size);
    environment
}

/// Returns whether `path` is `field` or one of its outer fields, ignoring case.
fn is_prefix(path: &str, field: &str) -> bool {
    let mut names = field.split('.');
    path.split('.').all(|name| {
        let field = names.next();
        field.is_some_and(|field| field == "*" || field.eq_ignore_ascii_case(name))
    })
}

fn outermost(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// Rewrites `{{.id}}` to `{{id}}`.
fn without_leading_dots(text: &str) -> String {
    let mut parts = text.split("{{");
    let mut rewritten = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let expression = part.trim_start_matches(['-', ' ']);
        let marks = &part[..part.len() - expression.len()];
        rewritten += "{{";
        rewritten += marks;
        rewritten += expression.strip_prefix('.').unwrap_or(expression);
    }
    rewritten
}

/// Formats the error in one line. Its own `Display` adds the lines of the template around it.
fn in_one_line(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FIELDS: [&str; 4] = ["id", "diskSize", "image.reference", "ipAddress"];

    fn rendered(text: &str) -> Result<String, TemplateError> {
        let value = json!({"id": "dev", "diskSize": 1536, "image": {"reference": "x:1"}, "ipAddress": null});
        Template::parse(text, &FIELDS)?.render(&value)
    }

    #[test]
    fn fields_are_found_in_jinja_and_go_style() {
        for text in ["{{ id }}", "{{id}}", "{{.id}}", "{{ .ID }}", "{{- .Id -}}"] {
            assert_eq!(rendered(text).unwrap(), "dev", "{text}");
        }
        assert_eq!(rendered("{{.image.reference}}").unwrap(), "x:1");
        assert_eq!(rendered("{{ image.reference }}").unwrap(), "x:1");
        assert_eq!(rendered(r"{{id}}\t{{diskSize}}").unwrap(), "dev\t1536");
        assert_eq!(rendered("{{ diskSize | size }}").unwrap(), "1.5 KiB");
        assert_eq!(
            rendered("{{ image | tojson }}").unwrap(),
            r#"{"reference":"x:1"}"#
        );
        let looped = "{% for n in range(2) %}{{ id ~ n }} {% endfor %}";
        assert_eq!(rendered(looped).unwrap(), "dev0 dev1 ");
        assert_eq!(rendered("plain").unwrap(), "plain");
    }

    #[test]
    fn absent_fields_are_empty_and_unknown_ones_refused() {
        assert_eq!(rendered("<{{ ipAddress }}>").unwrap(), "<>");
        let error = rendered("{{ .Names }}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "field \"Names\" not found (available: id, diskSize, image.reference, ipAddress)"
        );
        assert!(rendered("{{ image.tag }}").is_err());
    }

    #[test]
    fn malformed_templates_are_refused_in_one_line() {
        for text in ["{{ id", "{{ }}", "{% if %}", "{{ id | no_such_filter }}"] {
            let error = rendered(text).unwrap_err().to_string();
            assert!(
                error.contains(": ") && !error.contains('\n'),
                "{text}: {error}"
            );
        }
    }
}
