//! Machines on the wire.

use std::{
    net::Ipv4Addr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use container_machine::{
    DiskCapacity, HomeMount, ImageDescription, KernelParameters, MachineId, Memory, Platform,
    UserSetup,
};
use container_protocol::{PublishedPort, local::PortStatus};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::CallerEnvironment;

/// What a machine is to be made from, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateRequest {
    /// The image's reference as the person wrote it.
    pub image: String,
    /// The machine's name; made from the image's where there is none.
    pub name: Option<String>,
    /// `os/arch[/variant]`; the host's where there is none.
    pub platform: Option<String>,
    /// `http`, `https` or `auto`.
    pub scheme: Option<String>,
    /// Layers fetched at once; three where nothing is said.
    pub max_concurrent_downloads: Option<NonZeroUsize>,
    /// The home directory of whoever asks.
    pub home: PathBuf,
    /// What the environment of whoever asks says.
    pub environment: CallerEnvironment,
    /// What differs from the configured defaults.
    pub boot: BootChange,
    /// Whether to boot it at once.
    pub start: bool,
    /// Whether to make it the default machine even if it is not the first.
    pub set_default: bool,
}

/// Changes to a boot configuration. What is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BootChange {
    /// Virtual CPUs.
    pub cpus: Option<NonZeroU32>,
    /// What the disk can hold.
    pub disk_capacity: Option<DiskCapacity>,
    /// How the home is shared.
    pub home_mount: Option<HomeMount>,
    /// The kernel's image, an absolute path; an empty one goes back to the default.
    pub kernel: Option<PathBuf>,
    /// Parameters for the kernel; empty ones for none.
    pub kernel_args: Option<KernelParameters>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Ports at fixed places on the host, all of them.
    pub publish: Option<Vec<PublishedPort>>,
    /// Whether machines may run inside.
    pub virtualization: Option<bool>,
}

/// The machine that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Its id.
    pub id: MachineId,
}

/// A machine that is up, and what is needed to run commands in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Its runtime's socket.
    pub socket: PathBuf,
    /// Its user.
    pub user: UserSetup,
    /// The directory that it shares with the host; none without.
    pub shared_home: Option<PathBuf>,
}

/// A machine's ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Where on the host they are reached, those that are not among them.
    pub ports: Vec<PortStatus>,
}

/// What came of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// Whether the machine runs, so that the change waits for its next start.
    pub running: bool,
    /// What was changed all the same and does not do what it should, a sentence each.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Another name for a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    /// The name.
    pub to: MachineId,
}

/// What came of a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    /// Whether it was the default machine, so that there is none now.
    pub was_default: bool,
}

/// Where a machine's logs are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// What init prints.
    pub stdio: PathBuf,
    /// What the kernel prints.
    pub boot: PathBuf,
}

/// The default machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultMachine {
    /// Its id.
    pub id: MachineId,
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It does.
    Running,
    /// It boots.
    Starting,
    /// It does not.
    Stopped,
}

/// All machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machines {
    /// Their states, by id.
    pub machines: Vec<Snapshot>,
    /// Of those whose state cannot be told, why: a sentence for people each.
    pub broken: Vec<String>,
}

/// A machine's state as it is reported. Fields stand in the order of their names, and one that
/// is absent is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// This boot's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Virtual CPUs at the next boot.
    pub cpus: NonZeroU32,
    /// When the machine was created.
    pub created_date: Timestamp,
    /// Whether it is the one that is meant where none is named.
    pub default: bool,
    /// Bytes that the disk can hold from the next boot on.
    pub disk_capacity: DiskCapacity,
    /// Bytes that the disk takes on the host.
    pub disk_size: u64,
    /// How the home is shared at the next boot.
    pub home_mount: HomeMount,
    /// Its id.
    pub id: MachineId,
    /// What it was made from.
    pub image: ImageDescription,
    /// What runs as init: a path in the machine, or `built-in`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// The machine's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<Ipv4Addr>,
    /// The kernel's image, where it is not the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Parameters for the kernel.
    #[serde(default, skip_serializing_if = "KernelParameters::is_empty")]
    pub kernel_args: KernelParameters,
    /// Memory in bytes at the next boot.
    pub memory: Memory,
    /// The image's platform.
    pub platform: Platform,
    /// Ports at fixed places on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishedPort>,
    /// When this boot began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_date: Option<Timestamp>,
    /// Whether it runs.
    pub status: Status,
    /// The machine's user.
    pub user_setup: UserSetup,
    /// Whether machines may run inside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub virtualization: bool,
}
