//! Streamed replies of requests that take long.

use serde::{Deserialize, Serialize};

use crate::Failure;

/// One line of a streamed reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamEvent<T> {
    /// Progress of the request.
    Progress(Progress),
    /// Result of the request. Always the last line.
    Done(T),
    /// Error of the request. Always the last line.
    Failed(Failure),
}

/// Progress of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Progress {
    /// A step began or advanced.
    Step(Step),
    /// A sentence for the user.
    Note(String),
}

/// Step of a request, with the work done so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Name for the user: `fetching image`, `unpacking image`, `booting machine`.
    pub name: String,
    /// Layers done; absent in a step without layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Bytes done; absent in a step that counts no bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// Bytes of the whole step; absent if not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// Layers of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Number of layers done.
    pub done: usize,
    /// Number of layers of the step.
    pub total: usize,
}

impl Progress {
    /// Returns a step that counts neither layers nor bytes.
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
    fn events_are_distinguished_by_their_key() {
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
