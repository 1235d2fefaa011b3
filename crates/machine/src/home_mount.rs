//! Access of a machine to the home directory of its user on the host.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Access of a machine to the home directory of its user on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HomeMount {
    /// The home directory is mounted, and can be changed.
    #[default]
    Rw,
    /// The home directory is mounted read-only.
    Ro,
    /// The home directory is not shared.
    None,
}

/// The text is not a home mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid home mount {0:?}: use rw, ro or none")]
pub struct InvalidHomeMount(String);

impl FromStr for HomeMount {
    type Err = InvalidHomeMount;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "rw" => Ok(HomeMount::Rw),
            "ro" => Ok(HomeMount::Ro),
            "none" => Ok(HomeMount::None),
            other => Err(InvalidHomeMount(other.to_owned())),
        }
    }
}

impl fmt::Display for HomeMount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            HomeMount::Rw => "rw",
            HomeMount::Ro => "ro",
            HomeMount::None => "none",
        })
    }
}
