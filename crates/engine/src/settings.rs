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
    /// How the engine is kept from the user's files.
    #[serde(default, skip_serializing_if = "ConfinementChoice::is_default")]
    pub confinement: ConfinementChoice,
}

/// How the engine is kept from files that it does not need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfinementChoice {
    /// By Landlock, as far as the host's kernel has it.
    #[default]
    Landlock,
    /// Not at all, for a program whose files are in unusual places.
    None,
}

impl ConfinementChoice {
    fn is_default(&self) -> bool {
        *self == ConfinementChoice::default()
    }
}
