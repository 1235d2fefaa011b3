//! What is known of a machine: fixed when it was created, or applied by the next boot.

use std::{num::NonZeroU32, path::PathBuf};

use container_protocol::PublishedPort;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{DiskCapacity, HomeMount, MachineId, Memory, UserSetup};

/// `config.json`: what was fixed when the machine was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfiguration {
    /// When.
    pub created_date: Timestamp,
    /// The home directory of the machine's user on the host.
    pub home: PathBuf,
    /// The machine's id.
    pub id: MachineId,
    /// What it was made from.
    pub image: ImageDescription,
    /// The image's environment for init, `NAME=value`.
    pub init_environment: Vec<String>,
    /// The image's platform.
    pub platform: Platform,
    /// The login shell of the machine's user, if the image's machine settings name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// The image's stop signal, if it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The machine's user.
    pub user_setup: UserSetup,
}

/// An image, as the machine that was made from it remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDescription {
    /// What the reference led to.
    pub descriptor: Descriptor,
    /// The reference that was asked for, in full.
    pub reference: String,
}

/// An OCI content descriptor (image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// `algorithm:hex` of the bytes.
    pub digest: String,
    /// What they are.
    pub media_type: String,
    /// How many.
    pub size: u64,
}

/// An OCI platform (image-spec, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64` …
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v8` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// `boot-config.json`: what `set` may change and the next boot applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootConfiguration {
    /// Virtual CPUs.
    pub cpus: NonZeroU32,
    /// What the disk can hold at least; the default where a machine is older than the choice.
    #[serde(default)]
    pub disk_capacity: DiskCapacity,
    /// How the home is shared.
    pub home_mount: HomeMount,
    /// The kernel's image; none for the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Parameters for the kernel, behind the engine's own.
    #[serde(default, skip_serializing_if = "crate::KernelParameters::is_empty")]
    pub kernel_args: crate::KernelParameters,
    /// Memory in bytes.
    pub memory: Memory,
    /// Ports of the machine at fixed places on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishedPort>,
    /// Whether machines may run inside.
    pub virtualization: bool,
}
