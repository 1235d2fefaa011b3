//! Content of machine settings.

use serde::Deserialize;
use serde_json::Value;

use super::InvalidSettings;

/// Supported version of the configuration.
const SCHEMA_VERSION: u64 = 1;

/// Settings of an image for the machines made from it. All are absent if the image has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineSettings {
    /// Login shell of the machine's user, an absolute path in the machine.
    pub shell: Option<String>,
    /// Script that sets up the machine's user.
    pub setup_script: Option<Vec<u8>>,
}

/// Parses the shell from the configuration.
pub(super) fn parse_shell(config: &[u8]) -> Result<Option<String>, InvalidSettings> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: Value,
    }
    #[derive(Deserialize)]
    struct Config {
        shell: Option<String>,
    }
    // Parsed separately, because in another version `shell` may have another type.
    let Version { schema_version } =
        serde_json::from_slice(config).map_err(InvalidSettings::new)?;
    if schema_version != SCHEMA_VERSION {
        return Err(InvalidSettings::new(format!(
            "schema version {schema_version} is not supported (only {SCHEMA_VERSION} is)"
        )));
    }
    let Config { shell } = serde_json::from_slice(config).map_err(InvalidSettings::new)?;
    match shell {
        // It becomes a field of /etc/passwd, where these characters separate fields and lines.
        Some(shell) if !shell.starts_with('/') || shell.contains([':', '\0', '\n', '\r']) => Err(
            InvalidSettings::new(format!("shell {shell:?} is not an absolute path")),
        ),
        shell => Ok(shell),
    }
}
