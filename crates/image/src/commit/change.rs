//! Changes of an image's configuration, written as Dockerfile instructions.

use std::str::FromStr;

use serde_json::{Map, Value, json};

/// A change of the configuration (image-spec, config.md, "config").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `ENV NAME=VALUE`
    Environment(String, String),
    /// `LABEL NAME=VALUE`
    Label(String, String),
    /// `CMD ["PROGRAM", "ARGUMENT"]` or `CMD LINE`
    Command(Vec<String>),
    /// `ENTRYPOINT …`, as `CMD`
    Entrypoint(Vec<String>),
    /// `USER NAME`
    User(String),
    /// `WORKDIR PATH`
    WorkingDirectory(String),
    /// `STOPSIGNAL SIGNAL`
    StopSignal(String),
}

/// The text is not a supported instruction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid change {0:?} (supported, as in a Dockerfile: ENV NAME=VALUE, LABEL NAME=VALUE, CMD, ENTRYPOINT, USER, WORKDIR, STOPSIGNAL)"
)]
pub struct InvalidChange(String);

impl FromStr for Change {
    type Err = InvalidChange;

    fn from_str(text: &str) -> Result<Change, InvalidChange> {
        let read = || {
            let (instruction, rest) = text.trim().split_once(char::is_whitespace)?;
            let rest = rest.trim();
            let word = || (!rest.is_empty()).then(|| rest.to_owned());
            Some(match instruction.to_ascii_uppercase().as_str() {
                "ENV" => {
                    let (name, value) = parse_pair(rest)?;
                    Change::Environment(name, value)
                }
                "LABEL" => {
                    let (name, value) = parse_pair(rest)?;
                    Change::Label(name, value)
                }
                "CMD" => Change::Command(parse_command(rest)?),
                "ENTRYPOINT" => Change::Entrypoint(parse_command(rest)?),
                "USER" => Change::User(word()?),
                "WORKDIR" => Change::WorkingDirectory(word()?),
                "STOPSIGNAL" => Change::StopSignal(word()?),
                _ => return None,
            })
        };
        read().ok_or_else(|| InvalidChange(text.chars().take(200).collect()))
    }
}

/// Parses `NAME=VALUE` or `NAME VALUE`, with the value optionally in double quotes.
fn parse_pair(text: &str) -> Option<(String, String)> {
    let is_between = |letter: char| letter == '=' || letter.is_whitespace();
    let (name, value) = text.split_once(is_between)?;
    let value = value.trim();
    let quoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let value = quoted.unwrap_or(value);
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

/// Parses a JSON array of words, or a line for the shell.
fn parse_command(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        None
    } else if text.starts_with('[') {
        serde_json::from_str(text).ok()
    } else {
        Some(["/bin/sh", "-c", text].map(str::to_owned).to_vec())
    }
}

impl Change {
    /// Applies the change to the `config` object of an image configuration.
    pub(super) fn apply(&self, config: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
        match self {
            Change::Command(words) => set("Cmd", json!(words)),
            Change::Entrypoint(words) => set("Entrypoint", json!(words)),
            Change::User(user) => set("User", json!(user)),
            Change::WorkingDirectory(path) => set("WorkingDir", json!(path)),
            Change::StopSignal(signal) => set("StopSignal", json!(signal)),
            Change::Label(name, value) => {
                let mut labels = config.remove("Labels").unwrap_or_default();
                if !labels.is_object() {
                    labels = json!({});
                }
                labels[name] = json!(value);
                config.insert("Labels".to_owned(), labels);
            }
            Change::Environment(name, value) => {
                let before = config.remove("Env").unwrap_or_default();
                let has_name = |pair: &Value| {
                    let named = pair.as_str().and_then(|pair| pair.split_once('='));
                    named.is_some_and(|(other, _)| other == name)
                };
                let mut pairs: Vec<Value> = before.as_array().cloned().unwrap_or_default();
                pairs.retain(|pair| !has_name(pair));
                pairs.push(json!(format!("{name}={value}")));
                config.insert("Env".to_owned(), Value::Array(pairs));
            }
        }
    }
}
