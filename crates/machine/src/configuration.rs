//! The two configurations of a machine.

use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf};

use container_protocol::{AllowRule, Egress, EgressMode, PublishedPort};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    DiskCapacity, ForwardedSocket, HomeMount, IdleSuspend, KernelParameters, MachineId, Memory,
    Mount, PrivateHome, UserSetup,
};

/// `config.json`: what was fixed when the machine was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfiguration {
    /// Time of creation, in whole seconds.
    pub created_date: Timestamp,
    /// Home directory of the machine's user on the host.
    pub home: PathBuf,
    /// Id of the machine. The name of the bundle takes precedence.
    pub id: MachineId,
    /// Image that the machine was created from.
    pub image: ImageDescription,
    /// The image's environment for init, `NAME=value`.
    pub init_environment: Vec<String>,
    /// Platform of the image.
    pub platform: Platform,
    /// Login shell of the machine's user, if the image's machine settings name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// The image's stop signal, if it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The machine's user.
    pub user_setup: UserSetup,
}

/// Image that a machine was created from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDescription {
    /// Descriptor of the index or manifest that the reference resolved to.
    pub descriptor: Descriptor,
    /// The requested reference with registry and tag.
    pub reference: String,
}

/// An OCI content descriptor (image-spec, descriptor.md), as `config.json` records it: the digest
/// may be of any algorithm. `container_image::Descriptor` is what the image store uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Digest of the blob, `algorithm:hex`.
    pub digest: String,
    /// Media type of the blob.
    pub media_type: String,
    /// Size of the blob in bytes.
    pub size: u64,
}

/// An OCI platform (image-spec, image-index.md), as `config.json` records it.
/// `container_image::Platform` is what images are chosen by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Architecture: `amd64`, `arm64` …
    pub architecture: String,
    /// Operating system, always `linux`.
    pub os: String,
    /// Variant of the architecture: `v8` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// `boot-config.json`: what the next boot applies. `set` changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootConfiguration {
    /// Rules that allow destinations beyond those of `egress`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<AllowRule>,
    /// Number of virtual CPUs.
    pub cpus: NonZeroU32,
    /// Minimum capacity of the disk. Absent in files of older versions.
    #[serde(default)]
    pub disk_capacity: DiskCapacity,
    /// Destinations that the machine may connect to without a rule.
    #[serde(default, skip_serializing_if = "EgressMode::is_all")]
    pub egress: EgressMode,
    /// Mode of the shared home.
    pub home_mount: HomeMount,
    /// Idle time after which the machine is suspended.
    #[serde(default, skip_serializing_if = "IdleSuspend::is_off")]
    pub idle_suspend: IdleSuspend,
    /// Whether nothing of the host is given to the machine but what is named: no home, no SSH
    /// agent, no caller's environment, no network without a rule.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Path of the kernel's image; absent for the default kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Kernel parameters, appended to those of the engine.
    #[serde(default, skip_serializing_if = "KernelParameters::is_empty")]
    pub kernel_args: KernelParameters,
    /// Amount of memory.
    pub memory: Memory,
    /// Directories of the host that the machine mounts besides the home, ordered by target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Directories of the shared home that the machine has for itself.
    #[serde(default, skip_serializing_if = "PrivateHome::is_default")]
    pub private_home: PrivateHome,
    /// Ports of the machine that are published on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishedPort>,
    /// Unix sockets that are forwarded between the machine and the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<ForwardedSocket>,
    /// Whether the machine may run virtual machines of its own.
    pub virtualization: bool,
    /// Settings of newer versions of the program, which have no effect and are kept.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl BootConfiguration {
    /// Returns the rules of what the machine may connect to.
    pub fn egress_rules(&self) -> Egress {
        Egress {
            mode: self.egress,
            allow: self.allow.clone(),
        }
    }
}
