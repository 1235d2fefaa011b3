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

/// How far a long request is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is being done: `fetching image`, `unpacking image`, `booting machine`.
    pub step: String,
    /// Bytes done in this step, where bytes are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// Bytes of this step in all, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

impl Progress {
    /// A step that counts nothing.
    pub fn step(step: impl Into<String>) -> Progress {
        Progress {
            step: step.into(),
            done: None,
            total: None,
        }
    }
}
