//! The sections of `config.toml`. Every section and every value may be absent.

use std::{collections::BTreeMap, fmt::Display, num::NonZeroU32, path::PathBuf, str::FromStr};

use container_image::{HostSettings, Limits, LocalStore, RegistryHost};
use container_machine::{
    DiskCapacity, FreeSpace, HomeMount, IdleSuspend, Memory, PrivateHome, SshAgentUse,
};
use container_runtime::Policy;
use serde::{Deserialize, Deserializer};

use super::time_zone::TimeZoneSetting;

/// Section `[machine]`: defaults for new machines, and how all start.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct MachineDefaults {
    /// Number of virtual CPUs.
    pub(crate) cpus: Option<NonZeroU32>,
    /// Amount of memory.
    #[serde(deserialize_with = "size")]
    pub(crate) memory: Option<Memory>,
    /// Capacity of the disk.
    #[serde(deserialize_with = "size")]
    pub(crate) disk_size: Option<DiskCapacity>,
    /// Free space on the host's disk below which users of machines are warned.
    #[serde(deserialize_with = "free_space")]
    pub(crate) free_space: FreeSpace,
    /// Mode of the shared home.
    pub(crate) home_mount: Option<HomeMount>,
    /// Directories of the shared home that machines have for themselves.
    pub(crate) private_home: Option<PrivateHome>,
    /// Idle time after which machines are suspended.
    pub(crate) idle_suspend: IdleSuspend,
    /// Whether machines may run virtual machines of their own.
    pub(crate) virtualization: Option<bool>,
    /// Path of the kernel's image.
    pub(crate) kernel: Option<PathBuf>,
    /// Time zone of new machines.
    pub(crate) time_zone: TimeZoneSetting,
    /// When machines may use the SSH agent of clients.
    pub(crate) ssh_agent: SshAgentUse,
    /// Whether machines start from templates.
    pub(crate) templates: bool,
}

impl Default for MachineDefaults {
    fn default() -> Self {
        MachineDefaults {
            cpus: None,
            memory: None,
            disk_size: None,
            free_space: FreeSpace::default(),
            home_mount: None,
            private_home: None,
            idle_suspend: IdleSuspend::default(),
            virtualization: None,
            kernel: None,
            time_zone: TimeZoneSetting::default(),
            ssh_agent: SshAgentUse::default(),
            templates: true,
        }
    }
}

/// Section `[network]`: networks of all machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct NetworkSettings {
    /// Whether `host.container.internal` reaches listeners on the host's loopback.
    pub(crate) host_loopback: bool,
    /// Whether machines reach the metadata services of cloud providers.
    pub(crate) cloud_metadata: bool,
    /// Whether connections of other users to machines' ports are refused.
    pub(crate) same_user_only: bool,
}

impl NetworkSettings {
    /// Returns the settings as the policy of a machine's network.
    pub(crate) fn policy(self) -> Policy {
        Policy {
            host_loopback: self.host_loopback,
            cloud_metadata: self.cloud_metadata,
            same_user_only: self.same_user_only,
        }
    }
}

/// Section `[image]`: local stores and limits of images.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct ImageSettings {
    /// Stores that are searched for a machine's image before its registry, in this order.
    pub(crate) local_stores: Vec<LocalStore>,
    /// Maximum size of an unpacked image in bytes.
    pub(crate) most_bytes: u64,
    /// Maximum number of files and directories in the layers of an image.
    pub(crate) most_entries: u64,
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
    /// Returns the limits of an image that is unpacked.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            most_bytes: self.most_bytes,
            most_entries: self.most_entries,
        }
    }
}

/// Section `[registry]`: the default registry, and settings of single registries.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RegistrySettings {
    /// Registry of references that name none.
    pub(crate) domain: String,
    /// Sections `[registry.host."HOST"]`.
    pub(crate) host: BTreeMap<RegistryHost, HostSettings>,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        RegistrySettings {
            domain: "docker.io".to_owned(),
            host: BTreeMap::new(),
        }
    }
}

/// A size in the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum SizeValue {
    Bytes(u64),
    Text(String),
}

/// Deserializes the free space of which users are warned.
fn free_space<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FreeSpace, D::Error> {
    match SizeValue::deserialize(deserializer)? {
        SizeValue::Bytes(bytes) => Ok(FreeSpace::from(bytes)),
        SizeValue::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// Deserializes a size with a unit (`"2G"`), or a number of bytes.
fn size<'de, D, S>(deserializer: D) -> Result<Option<S>, D::Error>
where
    D: Deserializer<'de>,
    S: TryFrom<u64> + FromStr<Err = <S as TryFrom<u64>>::Error>,
    <S as FromStr>::Err: Display,
{
    let size = match SizeValue::deserialize(deserializer)? {
        SizeValue::Bytes(bytes) => S::try_from(bytes),
        SizeValue::Text(text) => text.parse(),
    };
    size.map(Some).map_err(serde::de::Error::custom)
}
