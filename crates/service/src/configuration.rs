//! `config.toml`: what people set once for all machines.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
};

use container_api::{BootChange, RecommendedKernel};
use container_engine::EngineSettings;
use container_image::{
    HostSettings, Limits, LocalStore, Reference, Registries, RegistryHost, check_authorities,
};
use container_machine::{
    BootConfiguration, DiskCapacity, HomeMount, KernelParameters, Memory, World,
};
use container_runtime::Policy;
use serde::{Deserialize, Deserializer};
use toml::de::DeTable;

use crate::host::{Host, TooMuch};

/// The whole file. Everything in it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Configuration {
    /// What machines get that are made without saying otherwise.
    pub machine: MachineDefaults,
    /// Images.
    pub image: ImageSettings,
    /// Registries.
    pub registry: RegistryConfiguration,
    /// Machines' networks.
    pub network: NetworkSettings,
    /// The engine.
    pub engine: EngineSettings,
    /// The kernel that `container system kernel set --recommended` fetches.
    pub kernel: Option<RecommendedKernel>,
    /// What this was read from; none where there is no file.
    #[serde(skip)]
    file: Option<ConfigurationFile>,
}

/// The file, for telling where in it something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ConfigurationFile {
    path: PathBuf,
    text: String,
}

/// Section `[machine]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MachineDefaults {
    /// Virtual CPUs.
    pub cpus: Option<NonZeroU32>,
    /// Memory.
    #[serde(deserialize_with = "size")]
    pub memory: Option<Memory>,
    /// What the disk can hold.
    #[serde(deserialize_with = "size")]
    pub disk_size: Option<DiskCapacity>,
    /// How the home is shared.
    pub home_mount: Option<HomeMount>,
    /// Whether machines may run inside.
    pub virtualization: Option<bool>,
    /// The kernel's image.
    pub kernel: Option<PathBuf>,
}

/// Section `[network]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NetworkSettings {
    /// Whether `host.container.internal` leads to what listens on the host's loopback.
    pub host_loopback: bool,
    /// Whether connections of other users to machines' ports are refused.
    pub same_user_only: bool,
}

impl NetworkSettings {
    /// What machines may reach, and be reached by.
    pub fn policy(self) -> Policy {
        Policy {
            host_loopback: self.host_loopback,
            same_user_only: self.same_user_only,
        }
    }
}

/// Section `[image]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ImageSettings {
    /// Where a machine's image is looked for before its registry is asked, in this order.
    pub local_stores: Vec<LocalStore>,
    /// Bytes that an image may unpack to.
    pub most_bytes: u64,
    /// Files and directories that may be in its layers.
    pub most_entries: u64,
}

impl Default for ImageSettings {
    fn default() -> Self {
        let Limits {
            most_bytes,
            most_entries,
        } = Limits::default();
        ImageSettings {
            local_stores: vec![LocalStore::Docker, LocalStore::ContainersStorage],
            most_bytes,
            most_entries,
        }
    }
}

impl ImageSettings {
    /// How much an image may unpack to.
    pub fn limits(&self) -> Limits {
        Limits {
            most_bytes: self.most_bytes,
            most_entries: self.most_entries,
        }
    }
}

/// Section `[registry]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfiguration {
    /// Where images are looked for whose reference names no registry.
    pub domain: String,
    /// Sections `[registry.host."HOST"]`: single registries.
    pub host: BTreeMap<RegistryHost, HostSettings>,
}

impl Default for RegistryConfiguration {
    fn default() -> Self {
        RegistryConfiguration {
            domain: "docker.io".to_owned(),
            host: BTreeMap::new(),
        }
    }
}

/// Sizes are written as such (`"2G"`) or as a number of bytes.
fn size<'de, D, S>(from: D) -> Result<Option<S>, D::Error>
where
    D: Deserializer<'de>,
    S: TryFrom<u64> + FromStr<Err = <S as TryFrom<u64>>::Error>,
    <S as FromStr>::Err: Display,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Bytes(u64),
        Size(String),
    }
    let size = match Written::deserialize(from)? {
        Written::Bytes(bytes) => S::try_from(bytes),
        Written::Size(size) => size.parse(),
    };
    size.map(Some).map_err(serde::de::Error::custom)
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
            Ok(text) => {
                let file = ConfigurationFile { path, text };
                let read = toml::from_str(&file.text);
                let read = read.map_err(|error| file.malformed(&error));
                read.map(|configuration| Configuration {
                    file: Some(file),
                    ..configuration
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Configuration::default()),
            Err(source) => Err(ConfigurationError::Read { path, source }),
        }
    }

    /// Refuses what is well-formed and of no use on this host.
    pub fn check(&self) -> Result<(), ConfigurationError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let boot = self.boot_defaults();
        match Host::of_this_process().check(&boot) {
            Err(error @ TooMuch::Cpus { .. }) if self.machine.cpus.is_some() => {
                return Err(file.unusable(&["machine", "cpus"], error));
            }
            Err(error @ TooMuch::Memory { .. }) if self.machine.memory.is_some() => {
                return Err(file.unusable(&["machine", "memory"], error));
            }
            _ => {}
        }
        if let Some(kernel) = &self.machine.kernel {
            container_kernel::check_file(kernel)
                .map_err(|error| file.unusable(&["machine", "kernel"], error))?;
        }
        let domain = &self.registry.domain;
        if domain.contains('/') || Reference::parse("any", domain).is_err() {
            let reason = "a registry is a host name, with a port where it needs one";
            return Err(file.unusable(&["registry", "domain"], reason));
        }
        for (host, settings) in &self.registry.host {
            if let Some(ca) = &settings.ca {
                check_authorities(ca).map_err(|error| {
                    file.unusable(&["registry", "host", host.as_str(), "ca"], error)
                })?;
            }
        }
        if self
            .engine
            .program
            .as_ref()
            .is_some_and(|program| program.as_os_str().is_empty())
        {
            return Err(file.unusable(&["engine", "program"], "the path of a program is missing"));
        }
        Ok(())
    }

    /// How registries are reached, and where this world's credentials for them are.
    pub fn registries(&self, world: &World) -> Registries {
        Registries {
            own_credentials: Some(world.credentials()),
            hosts: self.registry.host.clone(),
        }
    }

    /// What a machine gets of which nothing is said.
    pub fn boot_defaults(&self) -> BootConfiguration {
        let machine = &self.machine;
        BootConfiguration {
            cpus: machine
                .cpus
                .unwrap_or_else(|| Host::of_this_process().default_cpus()),
            disk_capacity: machine.disk_size.unwrap_or_default(),
            home_mount: machine.home_mount.unwrap_or_default(),
            kernel: machine.kernel.clone(),
            kernel_args: KernelParameters::default(),
            memory: machine
                .memory
                .unwrap_or_else(|| Memory::half_of(Host::of_this_process().memory)),
            publish: Vec::new(),
            virtualization: machine.virtualization.unwrap_or_default(),
        }
    }
}

impl ConfigurationFile {
    fn malformed(&self, error: &toml::de::Error) -> ConfigurationError {
        let position = error.span().map_or(0, |span| span.start);
        self.wrong_at(position, error.message().replace('\n', ", "))
    }

    /// The value of this key cannot be used.
    fn unusable(&self, keys: &[&str], reason: impl ToString) -> ConfigurationError {
        let position = DeTable::parse(&self.text).ok().and_then(|table| {
            let (first, below) = keys.split_first()?;
            let value = table.get_ref().get(*first)?;
            let value = below
                .iter()
                .try_fold(value, |value, key| value.get_ref().as_table()?.get(*key));
            Some(value?.span().start)
        });
        self.wrong_at(position.unwrap_or_default(), reason.to_string())
    }

    fn wrong_at(&self, position: usize, reason: String) -> ConfigurationError {
        let before = self.text.get(..position).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let text = self.text.lines().nth(line - 1).unwrap_or_default();
        ConfigurationError::Malformed {
            path: self.path.clone(),
            line,
            text: text.trim().to_owned(),
            reason,
        }
    }
}

/// Applies what was said to what there is.
pub fn changed(boot: BootConfiguration, change: &BootChange) -> BootConfiguration {
    BootConfiguration {
        cpus: change.cpus.unwrap_or(boot.cpus),
        disk_capacity: change.disk_capacity.unwrap_or(boot.disk_capacity),
        home_mount: change.home_mount.unwrap_or(boot.home_mount),
        kernel: match &change.kernel {
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(path.clone()),
            None => boot.kernel,
        },
        kernel_args: change.kernel_args.clone().unwrap_or(boot.kernel_args),
        memory: change.memory.unwrap_or(boot.memory),
        publish: change.publish.clone().unwrap_or(boot.publish),
        virtualization: change.virtualization.unwrap_or(boot.virtualization),
    }
}

#[cfg(test)]
mod tests {
    use container_image::Scheme;

    use super::*;

    fn read(text: &str) -> Result<Configuration, String> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.toml"), text).unwrap();
        Configuration::read(directory.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_may_be_left_out_or_said() {
        assert_eq!(read("").unwrap().registry.domain, "docker.io");
        let said = read("[machine]\ncpus = 2\nmemory = \"3G\"\ndisk-size = \"20G\"\nhome-mount = \"ro\"\n[engine]\naccelerator = \"tcg\"\n").unwrap();
        let boot = said.boot_defaults();
        assert_eq!(
            (boot.cpus.get(), boot.memory.bytes(), boot.home_mount),
            (2, 3 << 30, HomeMount::Ro)
        );
        assert_eq!(boot.disk_capacity.bytes(), 20 << 30);
        assert!(read("").unwrap().boot_defaults().cpus.get() >= 4);
    }

    #[test]
    fn local_stores_are_asked_in_order() {
        assert_eq!(read("").unwrap().image.local_stores.len(), 2);
        let read = |text: &str| read(text).map(|read| read.image.local_stores);
        let turned = "[image]\nlocal-stores = [\"containers-storage\", \"docker\"]\n";
        let expected = [LocalStore::ContainersStorage, LocalStore::Docker];
        assert_eq!(read(turned).unwrap(), expected);
        assert_eq!(read("[image]\nlocal-stores = []\n").unwrap(), []);
        let error = read("[image]\nlocal-stores = [\"dockr\"]\n").unwrap_err();
        assert!(
            error.contains("line 2") && error.contains("dockr"),
            "{error}"
        );
    }

    #[test]
    fn an_image_has_limits_that_can_be_set() {
        assert_eq!(read("").unwrap().image.limits(), Limits::default());
        let set = read("[image]\nmost-bytes = 1_000_000\n").unwrap().image;
        assert_eq!((set.most_bytes, set.most_entries), (1_000_000, 10_000_000));
        assert!(read("[image]\nmost-bytes = -1\n").is_err());
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
    fn what_is_of_no_use_here_is_named_too() {
        for (text, key) in [
            ("[registry]\n[machine]\ncpus = 5000\n", "cpus"),
            ("\n[machine]\nmemory = \"900T\"\n", "memory"),
            ("[machine]\n\nkernel = \"/no/such\"\n", "kernel"),
            ("[machine]\n\nkernel = \"\"\n", "kernel"),
            ("[registry]\n\ndomain = \"http://x\"\n", "domain"),
            ("[registry]\n\ndomain = \"\"\n", "domain"),
            ("[engine]\n\nprogram = \"\"\n", "program"),
        ] {
            let error = read(text).unwrap().check().unwrap_err().to_string();
            for part in ["config.toml", "line 3", key] {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
        let good = "[machine]\ncpus = 2\n[registry]\ndomain = \"localhost:5000\"\n";
        assert!(read(good).unwrap().check().is_ok());
    }

    #[test]
    fn registries_have_settings_of_their_own() {
        let text = "[registry.host.\"docker.io\"]\nmirrors = [\"mirror.example/hub\"]\n\
                    [registry.host.\"10.0.0.1:5000\"]\nscheme = \"https\"\n";
        let hosts = read(text).unwrap().registry.host;
        let settings: Vec<_> = hosts.values().collect();
        assert_eq!(settings[0].scheme, Scheme::Https);
        assert_eq!(settings[1].mirrors, ["mirror.example/hub".parse().unwrap()]);
    }

    #[test]
    fn a_mistake_about_a_registry_is_named_too() {
        let host = "\n[registry.host.\"quay.io\"]\n";
        for (text, key) in [
            ("mirrors = [\"https://x\"]\n", "mirrors"),
            ("mirrors = \"x\"\n", "mirrors"),
            ("scheme = \"ftp\"\n", "scheme"),
            ("mirror = []\n", "mirror"),
        ] {
            let error = read(&format!("{host}{text}")).unwrap_err();
            assert!(error.contains("line 3") && error.contains(key), "{error}");
        }
        let error = read("[registry.host.\"a/b\"]\nscheme = \"http\"\n").unwrap_err();
        assert!(error.contains("line 1") && error.contains("a/b"), "{error}");
        let configuration = read(&format!("{host}ca = \"/no/such.crt\"\n")).unwrap();
        let error = configuration.check().unwrap_err().to_string();
        assert!(
            error.contains("line 3") && error.contains("/no/such.crt"),
            "{error}"
        );
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
