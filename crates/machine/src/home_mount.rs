//! How a machine shares its user's home directory.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a machine may do with the home directory of its user on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HomeMount {
    /// Read and write.
    #[default]
    Rw,
    /// Read.
    Ro,
    /// Nothing: it is not there.
    None,
}

/// A word that is no home mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no home mount: it may be rw, ro or none")]
pub struct InvalidHomeMount(String);

impl FromStr for HomeMount {
    type Err = InvalidHomeMount;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
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
