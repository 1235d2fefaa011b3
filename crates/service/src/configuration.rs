//! `config.toml`: what people set once for all machines.

use std::{
    fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use container_api::BootChange;
use container_engine::EngineSettings;
use container_machine::{BootConfiguration, HomeMount, Memory};
use serde::{Deserialize, Deserializer};

use crate::host::Host;

/// The whole file. Everything in it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Configuration {
    /// What machines get that are made without saying otherwise.
    pub machine: MachineDefaults,
    /// Registries.
    pub registry: RegistryConfiguration,
    /// The engine.
    pub engine: EngineSettings,
}

/// Section `[machine]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MachineDefaults {
    /// Virtual CPUs.
    pub cpus: Option<NonZeroU32>,
    /// Memory.
    #[serde(deserialize_with = "memory")]
    pub memory: Option<Memory>,
    /// How the home is shared.
    pub home_mount: Option<HomeMount>,
    /// Whether machines may run inside.
    pub virtualization: Option<bool>,
    /// The kernel's image.
    pub kernel: Option<PathBuf>,
}

/// Section `[registry]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfiguration {
    /// Where images are looked for whose reference names no registry.
    pub domain: String,
}

impl Default for RegistryConfiguration {
    fn default() -> Self {
        RegistryConfiguration {
            domain: "docker.io".to_owned(),
        }
    }
}

/// Memory is written as a size (`"2G"`) or as a number of bytes.
fn memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Memory>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Bytes(u64),
        Size(String),
    }
    let memory = match Written::deserialize(from)? {
        Written::Bytes(bytes) => Memory::try_from(bytes),
        Written::Size(size) => size.parse(),
    };
    memory.map(Some).map_err(serde::de::Error::custom)
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// It cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It says something that it cannot say.
    #[error("{path}, line {line} ({text}): {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Configuration {
    /// Reads `config.toml` in this directory; where there is none, everything is as it comes.
    pub fn read(directory: &Path) -> Result<Configuration, ConfigurationError> {
        let path = directory.join("config.toml");
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| malformed(path, &text, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Configuration::default()),
            Err(source) => Err(ConfigurationError::Read { path, source }),
        }
    }

    /// What a machine gets of which nothing is said.
    pub fn boot_defaults(&self) -> BootConfiguration {
        let machine = &self.machine;
        BootConfiguration {
            cpus: machine
                .cpus
                .unwrap_or_else(|| Host::of_this_process().default_cpus()),
            home_mount: machine.home_mount.unwrap_or_default(),
            kernel: machine.kernel.clone(),
            memory: machine
                .memory
                .unwrap_or_else(|| Memory::half_of(Host::of_this_process().memory)),
            virtualization: machine.virtualization.unwrap_or_default(),
        }
    }
}

fn malformed(path: PathBuf, text: &str, error: &toml::de::Error) -> ConfigurationError {
    let position = error.span().map_or(0, |span| span.start);
    let before = text.get(..position).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    ConfigurationError::Malformed {
        path,
        line,
        text: text
            .lines()
            .nth(line - 1)
            .unwrap_or_default()
            .trim()
            .to_owned(),
        reason: error.message().replace('\n', ", "),
    }
}

/// Applies what was said to what there is.
pub fn changed(boot: BootConfiguration, change: &BootChange) -> BootConfiguration {
    BootConfiguration {
        cpus: change.cpus.unwrap_or(boot.cpus),
        home_mount: change.home_mount.unwrap_or(boot.home_mount),
        kernel: match &change.kernel {
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(path.clone()),
            None => boot.kernel,
        },
        memory: change.memory.unwrap_or(boot.memory),
        virtualization: change.virtualization.unwrap_or(boot.virtualization),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Configuration, String> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.toml"), text).unwrap();
        Configuration::read(directory.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_may_be_left_out_or_said() {
        assert_eq!(read("").unwrap().registry.domain, "docker.io");
        let said = read("[machine]\ncpus = 2\nmemory = \"3G\"\nhome-mount = \"ro\"\n[engine]\naccelerator = \"tcg\"\n").unwrap();
        let boot = said.boot_defaults();
        assert_eq!(
            (boot.cpus.get(), boot.memory.bytes(), boot.home_mount),
            (2, 3 << 30, HomeMount::Ro)
        );
        assert!(read("").unwrap().boot_defaults().cpus.get() >= 4);
    }

    #[test]
    fn a_mistake_is_named_with_file_line_and_key() {
        let error = read("[machine]\ncpuz = 2\n").unwrap_err();
        assert!(
            error.contains("config.toml") && error.contains("line 2") && error.contains("cpuz"),
            "{error}"
        );
        let error = read("\n[machine]\nmemory = \"12\"\n").unwrap_err();
        assert!(
            error.contains("line 3") && error.contains("memory"),
            "{error}"
        );
        let error = read("[engine]\naccelerator = \n").unwrap_err();
        assert!(error.contains("line 2") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn an_empty_kernel_goes_back_to_the_default() {
        let boot = BootConfiguration {
            kernel: Some("/k".into()),
            ..Configuration::default().boot_defaults()
        };
        let change = BootChange {
            kernel: Some(PathBuf::new()),
            ..BootChange::default()
        };
        assert_eq!(changed(boot.clone(), &change).kernel, None);
        assert_eq!(changed(boot.clone(), &BootChange::default()), boot);
    }
}
