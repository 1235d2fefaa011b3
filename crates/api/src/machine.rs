//! Machines: requests, replies and state.

use std::{
    net::Ipv4Addr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use container_machine::{
    DiskCapacity, ForwardedSocket, HomeMount, IdleSuspend, ImageDescription, KernelParameters,
    MachineId, Memory, Mount, MountPath, Platform, PrivateHome, SshAgentUse, UserSetup,
};
use container_protocol::{
    AllowRule, EgressMode, PublishedPort, SocketForward,
    local::{Blocked, BootKind, PortStatus},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::CallerEnvironment;

/// Request to create a machine from an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateRequest {
    /// Reference of the image as the user typed it.
    pub image: String,
    /// Name of the machine; made from the reference if absent.
    pub name: Option<String>,
    /// Platform of the image, `os/arch[/variant]`; the host's if absent.
    pub platform: Option<String>,
    /// Scheme of the registry: `http`, `https` or `auto` (if absent).
    pub scheme: Option<String>,
    /// Layers downloaded at the same time; three if absent.
    pub max_concurrent_downloads: Option<NonZeroUsize>,
    /// The caller's home directory.
    pub home: PathBuf,
    /// The caller's environment.
    pub environment: CallerEnvironment,
    /// Differences to the configured defaults.
    pub boot: BootChange,
    /// Whether the machine settings attached to the image are ignored.
    pub no_settings: bool,
    /// Whether the machine is booted.
    pub start: bool,
    /// Whether the machine becomes the default machine even if there is one.
    pub set_default: bool,
}

/// Change of a boot configuration. Absent values are unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BootChange {
    /// Rules that allow destinations.
    pub allow: AllowChange,
    /// Number of virtual CPUs.
    pub cpus: Option<NonZeroU32>,
    /// Minimum capacity of the disk. A disk cannot shrink.
    pub disk_capacity: Option<DiskCapacity>,
    /// Destinations that the machine may connect to without a rule.
    pub egress: Option<EgressMode>,
    /// Mode of the shared home.
    pub home_mount: Option<HomeMount>,
    /// Idle time after which the machine is suspended.
    pub idle_suspend: Option<IdleSuspend>,
    /// Whether the machine is isolated. Then it has no home and no network without a rule.
    pub isolated: Option<bool>,
    /// Kernel of the machine.
    pub kernel: Option<KernelChoice>,
    /// Kernel parameters. They replace all current ones.
    pub kernel_args: Option<KernelParameters>,
    /// Amount of memory.
    pub memory: Option<Memory>,
    /// Mounted directories.
    pub mounts: Option<MountChange>,
    /// Directories of the shared home that the machine has for itself. They replace all current
    /// ones.
    pub private_home: Option<PrivateHome>,
    /// Published ports. They replace all current ones.
    pub publish: Option<Vec<PublishedPort>>,
    /// Forwarded sockets. They replace all current ones.
    pub sockets: Option<Vec<ForwardedSocket>>,
    /// Whether the machine may run virtual machines of its own.
    pub virtualization: Option<bool>,
}

/// Change of the rules that allow destinations, in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AllowChange {
    /// Rules that replace all current ones.
    pub replaced: Option<Vec<AllowRule>>,
    /// Rules that are removed. Each must exist.
    pub removed: Vec<AllowRule>,
    /// Rules that are added, unless they exist.
    pub added: Vec<AllowRule>,
}

/// Change of the directories that a machine mounts: first some are removed, then others added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MountChange {
    /// Which mounts are removed.
    pub remove: RemovedMounts,
    /// New mounts.
    pub add: Vec<Mount>,
}

/// Mounts that are removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RemovedMounts {
    /// All.
    All,
    /// Those at these paths in the machine.
    At(Vec<MountPath>),
}

impl Default for RemovedMounts {
    fn default() -> RemovedMounts {
        RemovedMounts::At(Vec::new())
    }
}

/// Kernel that a machine is to boot. In JSON it is a path, and the default kernel is an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathBuf", into = "PathBuf")]
pub enum KernelChoice {
    /// The default kernel at the time of each boot.
    Default,
    /// A kernel image, by its absolute path.
    Image(PathBuf),
}

impl From<PathBuf> for KernelChoice {
    fn from(path: PathBuf) -> KernelChoice {
        if path.as_os_str().is_empty() {
            KernelChoice::Default
        } else {
            KernelChoice::Image(path)
        }
    }
}

impl From<KernelChoice> for PathBuf {
    fn from(choice: KernelChoice) -> PathBuf {
        match choice {
            KernelChoice::Default => PathBuf::new(),
            KernelChoice::Image(path) => path,
        }
    }
}

/// Request to boot a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BootRequest {
    /// Whether the machine boots with the built-in init in place of its own, to be repaired.
    pub rescue: bool,
    /// Whether only a suspended machine is started.
    pub if_suspended: bool,
}

/// Request to stop a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StopRequest {
    /// Whether the saved memory of a suspended machine is given up.
    pub force: bool,
    /// Time in seconds that init has to stop its services; absent for the default.
    pub grace_seconds: Option<u32>,
    /// Whether a running machine is powered off at once. Others are left as they are.
    pub power_cut: bool,
}

/// Request to suspend a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuspendRequest {
    /// Whether commands that run for clients are ended.
    pub force: bool,
}

/// Reply to a [`CreateRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Id of the new machine.
    pub id: MachineId,
}

/// A running machine, with what a client needs to run commands in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Socket of the machine's runtime.
    pub socket: PathBuf,
    /// The machine's user.
    pub user: UserSetup,
    /// The shared home directory; absent if the machine shares none.
    pub shared_home: Option<PathBuf>,
    /// Directories of the host that the machine mounts besides the home.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Whether the machine is isolated, so that commands get nothing of the caller.
    #[serde(default)]
    pub isolated: bool,
    /// When the machine may use the client's SSH agent.
    #[serde(default)]
    pub ssh_agent: SshAgentUse,
    /// How the machine was booted; clients print it with `--debug`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootKind>,
}

/// Ports of a running machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Attempts of the machine to reach what its egress rules do not allow, since its boot.
    #[serde(default)]
    pub blocked: Blocked,
    /// Ports with their addresses on the host, also published ports that cannot be reached.
    pub ports: Vec<PortStatus>,
}

/// Reply to a [`BootChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// Whether the machine is running, so that the change applies after its next boot. Published
    /// ports, forwarded sockets, mounts, egress rules and the idle time apply at once, so a change
    /// of them alone does not count.
    pub running: bool,
    /// Whether the machine is suspended, so that the change applies after it was stopped.
    #[serde(default)]
    pub suspended: bool,
    /// A sentence for each published port and each forwarded socket that cannot be reached, and for
    /// each directory that is not mounted.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Request to rename a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameRequest {
    /// New id. It must not be in use.
    pub to: MachineId,
}

/// Reply to the deletion of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    /// Whether it was the default machine. There is none afterwards.
    pub was_default: bool,
}

/// Log files of a machine. They exist after the first boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// Output of init.
    pub stdio: PathBuf,
    /// Output of the kernel.
    pub boot: PathBuf,
}

/// The default machine, as a request to choose it and as the reply to a question for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultMachine {
    /// Id of the machine.
    pub id: MachineId,
}

/// Status of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The machine runs commands.
    Running,
    /// The machine is booting, or booted for a commit.
    Starting,
    /// The machine is paused, because the host cannot write its disk. It continues by itself.
    Paused,
    /// The machine is up, and its guest does not answer.
    Unresponsive,
    /// The machine has no runtime, and its memory is saved.
    Suspended,
    /// The machine has no runtime.
    Stopped,
}

/// All machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machines {
    /// States of the machines, ordered by id.
    pub machines: Vec<MachineState>,
    /// A message for each machine whose state cannot be read.
    pub broken: Vec<String>,
}

/// State of a machine. The fields are in alphabetical order. Those without a value are omitted; a
/// setting has one, also if it is the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineState {
    /// Rules that allow destinations beyond those of `egress`.
    #[serde(default)]
    pub allow: Vec<AllowRule>,
    /// How this boot started: from a template, or without one. Absent for a stopped machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootKind>,
    /// Name of this boot: the id and six characters. Absent for a stopped machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Number of virtual CPUs at the next boot.
    pub cpus: NonZeroU32,
    /// Time of creation.
    pub created_date: Timestamp,
    /// Whether this is the default machine.
    pub default: bool,
    /// Capacity of the disk at the next boot.
    pub disk_capacity: DiskCapacity,
    /// Size in bytes that the disk occupies on the host.
    pub disk_size: u64,
    /// Destinations that the machine may connect to without a rule.
    #[serde(default)]
    pub egress: EgressMode,
    /// Mode of the shared home at the next boot.
    pub home_mount: HomeMount,
    /// Id of the machine.
    pub id: MachineId,
    /// Idle time after which the machine is suspended, or `off`.
    #[serde(default)]
    pub idle_suspend: IdleSuspend,
    /// Image that the machine was created from.
    pub image: ImageDescription,
    /// Init: a path in the machine, or `built-in`. Absent unless the machine is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// The machine's own address. Absent for a stopped machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<Ipv4Addr>,
    /// Whether the machine is isolated: nothing of the host is given to it but what is named.
    #[serde(default)]
    pub isolated: bool,
    /// Path of the kernel's image at the next boot; absent for the default kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Kernel parameters at the next boot.
    #[serde(default)]
    pub kernel_args: KernelParameters,
    /// Amount of memory at the next boot.
    pub memory: Memory,
    /// Directories of the host that the machine mounts besides the home.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Why the host cannot write the disk of a paused machine. Absent for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_reason: Option<String>,
    /// Platform of the image.
    pub platform: Platform,
    /// Directories of the shared home that the machine has for itself from the next boot on.
    #[serde(default)]
    pub private_home: PrivateHome,
    /// Published ports.
    #[serde(default)]
    pub publish: Vec<PublishedPort>,
    /// Forwarded sockets.
    #[serde(default)]
    pub sockets: Vec<SocketForward>,
    /// Start of this boot. Absent for a stopped machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_date: Option<Timestamp>,
    /// Whether the machine is running.
    pub status: Status,
    /// The machine's user.
    pub user_setup: UserSetup,
    /// Whether the machine may run virtual machines of its own after the next boot.
    #[serde(default)]
    pub virtualization: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_kernel_is_an_empty_path_in_json() {
        for (choice, json) in [
            (KernelChoice::Default, r#""""#),
            (
                KernelChoice::Image("/boot/vmlinux".into()),
                r#""/boot/vmlinux""#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&choice).unwrap(), json);
            assert_eq!(serde_json::from_str::<KernelChoice>(json).unwrap(), choice);
        }
    }
}
