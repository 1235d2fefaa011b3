//! Templates that people give with `--format`: Jinja's, as minijinja knows them. A field may be
//! written as Go's templates do, `{{.id}}`, and in any case.

use std::collections::BTreeMap;

use minijinja::{Environment, Error, Value};
use serde::Serialize;

use crate::size::size;

/// A template whose fields are all known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    /// The names that it uses, and the fields that they mean.
    names: BTreeMap<String, &'static str>,
}

impl Template {
    /// Reads a template for things with these fields; those inside of others are `outer.inner`,
    /// those of any name `outer.*`.
    pub fn parse(text: &str, fields: &[&'static str]) -> Result<Template, String> {
        let source = without_leading_dots(&text.replace("\\t", "\t").replace("\\n", "\n"));
        let environment = environment();
        let template = environment.template_from_str(&source).map_err(told)?;
        let mut names = BTreeMap::new();
        for path in template.undeclared_variables(true) {
            let is_meant = |field: &str| is_or_is_in(field, &path);
            let Some(field) = fields.iter().find(|field| is_meant(field)) else {
                let is_global = environment.globals().any(|(name, _)| name == path);
                if is_global {
                    continue;
                }
                return Err(format!(
                    "there is no field {path:?}: there are {}",
                    fields.join(", ")
                ));
            };
            names.insert(outermost(&path).to_owned(), outermost(field));
        }
        Ok(Template { source, names })
    }

    /// What the template makes of this. A field that is absent is empty.
    pub fn render(&self, of: &impl Serialize) -> Result<String, String> {
        let fields = serde_json::to_value(of).map_err(|error| error.to_string())?;
        let named = self.names.iter().map(|(name, field)| {
            let value = fields.get(field);
            let value = value.map_or(Value::from(""), Value::from_serialize);
            (name.as_str(), value)
        });
        let context: BTreeMap<&str, Value> = named.collect();
        environment()
            .render_str(&self.source, context)
            .map_err(told)
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.add_filter("size", size);
    environment
}

/// Whether a field, or one that holds it, is written like this.
fn is_or_is_in(field: &str, path: &str) -> bool {
    let mut words = field.split('.');
    path.split('.').all(|word| {
        let field = words.next();
        field.is_some_and(|field| field == "*" || field.eq_ignore_ascii_case(word))
    })
}

fn outermost(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// `{{.id}}` as `{{id}}`.
fn without_leading_dots(text: &str) -> String {
    let mut parts = text.split("{{");
    let mut written = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let expression = part.trim_start_matches(['-', ' ']);
        let marks = &part[..part.len() - expression.len()];
        written += "{{";
        written += marks;
        written += expression.strip_prefix('.').unwrap_or(expression);
    }
    written
}

fn told(error: Error) -> String {
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

    fn rendered(text: &str) -> Result<String, String> {
        let of = json!({"id": "dev", "diskSize": 1536, "image": {"reference": "x:1"}});
        Template::parse(text, &FIELDS)?.render(&of)
    }

    #[test]
    fn fields_are_written_in_either_style() {
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
    fn an_absent_field_is_empty_and_an_unknown_one_an_error() {
        assert_eq!(rendered("<{{ ipAddress }}>").unwrap(), "<>");
        let error = rendered("{{ .Names }}").unwrap_err();
        assert_eq!(
            error,
            "there is no field \"Names\": there are id, diskSize, image.reference, ipAddress"
        );
        assert!(rendered("{{ image.tag }}").is_err());
    }

    #[test]
    fn a_malformed_template_is_an_error_that_says_where() {
        for text in ["{{ id", "{{ }}", "{% if %}", "{{ id | no_such_filter }}"] {
            let error = rendered(text).unwrap_err();
            assert!(
                error.contains(": ") && !error.contains('\n'),
                "{text}: {error}"
            );
        }
    }
}
