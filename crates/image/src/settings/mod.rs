//! Settings for the machines that are made from an image.
//!
//! Their author attaches them to the image as an OCI referrer (image-spec, manifest.md,
//! "subject"): an artifact with a layer of one or both of these media types.
//!
//! | media type | what |
//! |---|---|
//! | `application/vnd.apple.container.machine.config.v1+json` | `{"schemaVersion": 1, "shell": "/bin/zsh"}`; `shell` may be left out |
//! | `application/vnd.apple.container.machine.setup.v1+sh` | a script that sets the machine's user up |
//!
//! [`artifact`] tells which referrer that is, [`find`] fetches it and finds it again.

mod artifact;
mod find;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::Value;

use crate::registry::FetchError;

/// The version of the configuration that this program knows.
const SCHEMA_VERSION: u64 = 1;

/// What an image's author says about machines made from it; nothing where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineSettings {
    /// The login shell of the machine's user, an absolute path in the machine.
    pub shell: Option<String>,
    /// A script that sets the machine's user up.
    pub setup_script: Option<Vec<u8>>,
}

/// Reads the configuration's `shell`.
fn shell(config: &[u8]) -> Result<Option<String>, FetchError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: Value,
    }
    #[derive(Deserialize)]
    struct Config {
        shell: Option<String>,
    }
    // The version comes first: in another one a shell may be something else than a string.
    let Version { schema_version } =
        serde_json::from_slice(config).map_err(|error| malformed(error.to_string()))?;
    if schema_version != SCHEMA_VERSION {
        return Err(malformed(format!(
            "they are of schema version {schema_version}, and this program knows {SCHEMA_VERSION} only"
        )));
    }
    let Config { shell } =
        serde_json::from_slice(config).map_err(|error| malformed(error.to_string()))?;
    match shell {
        // It becomes a field of passwd(5).
        Some(shell) if !shell.starts_with('/') || shell.contains([':', '\0', '\n', '\r']) => {
            Err(malformed(format!(
                "the shell {shell:?} is no absolute path of a program"
            )))
        }
        shell => Ok(shell),
    }
}

fn malformed(reason: String) -> FetchError {
    FetchError::Malformed {
        what: "machine settings",
        reason: reason.chars().take(300).collect(),
    }
}
