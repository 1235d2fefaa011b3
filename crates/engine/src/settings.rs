//! What a person may say about the engine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Accelerator;

/// `config.toml`, section `[engine]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EngineSettings {
    /// `kvm`, `hvf` or `tcg`; without it the best that this host has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// The engine's program; without it the one on the search path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
}

/// Overrides the configured accelerator.
pub const ACCELERATOR_VARIABLE: &str = "CONTAINER_ACCELERATOR";
