//! What the service tells while it works.

use serde::{Deserialize, Serialize};

use crate::Failure;

/// One line of a streamed reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamEvent<T> {
    /// It got this far.
    Progress(Progress),
    /// It is done; the last line.
    Done(T),
    /// It failed; the last line.
    Failed(Failure),
}

/// What happens on the way of a long request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Progress {
    /// A step began, or got further.
    Step(Step),
    /// A sentence that whoever asked should read.
    Note(String),
}

/// A step of a long request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is being done: `fetching image`, `unpacking image`, `booting machine`.
    pub name: String,
    /// Layers done in this step, where it is one of layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Bytes done in this step, where bytes are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// Bytes of this step in all, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// How many layers of how many are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Those that are done.
    pub done: usize,
    /// All of this step.
    pub total: usize,
}

impl Progress {
    /// A step that counts nothing.
    pub fn step(name: impl Into<String>) -> Progress {
        Progress::Step(Step {
            name: name.into(),
            layers: None,
            done: None,
            total: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart_on_the_wire() {
        let lines = [
            r#"{"progress":{"step":{"name":"fetching image","layers":{"done":0,"total":2},"done":1}}}"#,
            r#"{"progress":{"note":"Look."}}"#,
            r#"{"done":7}"#,
            r#"{"failed":{"kind":"notFound","message":"no"}}"#,
        ];
        for line in lines {
            let event: StreamEvent<u8> = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&event).unwrap(), line);
        }
    }
}
