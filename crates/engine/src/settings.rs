//! The engine's settings in `config.toml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::accelerator::Accelerator;

/// Section `[engine]` of `config.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EngineSettings {
    /// `kvm`, `hvf` or `tcg`; the best that this host supports if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// The engine's program; the one on the search path if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
}
