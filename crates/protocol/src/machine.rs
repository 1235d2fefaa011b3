//! The control stream: the machine's set-up, its start and its stop.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::{
    ResumeToken,
    mount::{GuestShare, MountProblem},
};

/// Request of the host on [`Port::Control`](crate::Port::Control).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ControlRequest {
    /// Become this machine: mount its file systems, set it up, start its init. Sent once, as the
    /// first request.
    Start(Box<MachineSetup>),
    /// Mount the machine's disk read-only and serve only [`Port::Changes`](crate::Port::Changes).
    /// Sent instead of `Start`.
    ReadDisk,
    /// Serve only [`Port::Check`](crate::Port::Check). The machine's disk is not mounted. Sent
    /// instead of `Start`.
    CheckDisk,
    /// The host's clock in nanoseconds since 1970 UTC, which the guest's is set to. Sent after the
    /// first [`ControlEvent::Starting`], because the first request may wait for minutes until the
    /// kernel has booted, and as the reply to [`ControlEvent::ClockRequested`].
    SetClock(u64),
    /// Compare the guest's clock with the host's. Sent to a machine that has booted: at intervals,
    /// and after the host's clock was set or the host was suspended.
    CompareClock,
    /// Prepare to be suspended: write the machine's files to its disk, and end everything that the
    /// channel's streams are used for.
    Suspend {
        /// Mark of the streams that follow ([`ResumeToken`]).
        token: ResumeToken,
    },
    /// Prepare to be saved while the machine continues: write the machine's files to its disk.
    PrepareSnapshot {
        /// Mark of the streams of a machine that is restored ([`ResumeToken`]).
        token: ResumeToken,
    },
    /// Shut the machine down and power off. The stream ends with the machine.
    Stop {
        /// Grace period in seconds after which init is killed.
        grace_seconds: u32,
    },
}

/// Event of the agent on [`Port::Control`](crate::Port::Control).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ControlEvent {
    /// The machine is being set up. Sent every second, so that the host can tell a slow boot from
    /// one that hangs.
    Starting,
    /// The machine's init runs, its user exists, commands are served.
    Started {
        /// The program that runs as init.
        init: InitProgram,
        /// Directories that could not be mounted during the boot.
        #[serde(default)]
        mount_problems: Vec<MountProblem>,
        /// What the user should know about this boot, sentences.
        #[serde(default)]
        notes: Vec<String>,
    },
    /// The disk can be read or checked, as the host has requested.
    DiskIsReady,
    /// The machine cannot start; the agent powers off after this.
    Failed {
        /// Message with the attempted step and its error.
        message: String,
    },
    /// Request for the host's clock. The agent measures the time until the reply, which bounds the
    /// reply's error.
    ClockRequested,
    /// The machine can be suspended. The agent closes the channel when the host has closed this
    /// stream.
    SuspendReady,
    /// The machine cannot be suspended now, and continues.
    SuspendFailed {
        /// Message with the reason.
        message: String,
    },
    /// The machine can be saved. The agent that is restored from it waits for the token.
    SnapshotReady,
    /// The machine cannot be saved now, and continues.
    SnapshotFailed {
        /// Message with the reason.
        message: String,
    },
    /// The machine is unmounted and powers off, because its init has ended or the host ordered a
    /// stop. A machine that ends without this event or [`Rebooting`](Self::Rebooting) has crashed.
    PoweringOff,
    /// Init requested a reboot. The machine is unmounted and powers off, for the host to boot it
    /// again.
    Rebooting,
}

/// First message on [`Port::Changes`](crate::Port::Changes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangesRequest {
    /// Whether the machine's processes are paused meanwhile, so that no file changes.
    pub pause: bool,
}

/// First message on [`Port::Check`](crate::Port::Check).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckRequest {
    /// Whether errors are repaired. They are only reported otherwise.
    pub repair: bool,
}

/// Reply to a [`CheckRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckReply {
    /// The file system was checked.
    Checked {
        /// What was found.
        state: FileSystemState,
        /// Output of e2fsck(8).
        output: String,
    },
    /// The file system could not be checked; a message with the reason.
    Failed(String),
}

/// Result of checking a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FileSystemState {
    /// There are no errors.
    Clean,
    /// There were errors, which are repaired.
    Repaired,
    /// There are errors.
    Damaged,
}

/// First message of the agent on [`Port::Freeze`](crate::Port::Freeze).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FreezeReply {
    /// The disk is frozen, and everything that was written to files is on it.
    Frozen,
    /// The disk cannot be frozen; a message with the reason.
    Failed(String),
}

/// The program that runs as a machine's init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InitProgram {
    /// The image's own; its path in the machine, with all symbolic links resolved.
    OfImage(String),
    /// The agent's, for images without an init system.
    BuiltIn,
    /// The agent's, in place of the image's own, which the user wants to repair.
    Rescue,
}

impl InitProgram {
    /// Whether it is systemd, which manages cgroups and offers sessions.
    pub fn is_systemd(&self) -> bool {
        matches!(self, InitProgram::OfImage(program) if program.ends_with("/systemd"))
    }
}

impl fmt::Display for InitProgram {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            InitProgram::OfImage(program) => program,
            InitProgram::BuiltIn => "built-in",
            InitProgram::Rescue => "rescue",
        })
    }
}

/// Settings that make a booted guest this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineSetup {
    /// The machine's id, which is also its host name.
    pub id: String,
    /// The machine's network interface; absent without a network.
    pub network: Option<GuestNetwork>,
    /// The shared home; absent if nothing is shared.
    pub home_share: Option<GuestShare>,
    /// Other directories of the host, in the order in which they are mounted.
    #[serde(default)]
    pub mounts: Vec<GuestShare>,
    /// The machine's user. The field's name in the message is `home`.
    #[serde(rename = "home")]
    pub user: GuestUser,
    /// Absolute path of the user's login shell; the image's default shell if absent.
    pub shell: Option<String>,
    /// Script that sets the user up at the first boot; the built-in set-up if absent.
    #[serde(with = "crate::base64")]
    pub setup_script: Option<Vec<u8>>,
    /// What the boot sets up.
    pub occasion: BootOccasion,
    /// Whether the built-in init is started in place of the image's, so that the machine can be
    /// repaired. Set-up steps that fail are then skipped.
    #[serde(default)]
    pub rescue: bool,
    /// Whether the machine may run virtual machines of its own.
    pub virtualization: bool,
    /// The image's environment for init, `NAME=value`.
    pub init_environment: Vec<String>,
    /// The image's stop signal, a name like `SIGTERM` or a number; absent if the image has none.
    pub stop_signal: Option<String>,
    /// The time zone to set at the first boot; absent to keep the image's.
    #[serde(default)]
    pub time_zone: Option<GuestTimeZone>,
}

/// What a boot has to set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BootOccasion {
    /// The machine's first boot: ids and keys, the time zone and the user.
    First,
    /// The first boot of a machine that was cloned from one that was set up: ids and keys.
    FirstOfClone,
    /// A later boot.
    Later,
}

/// Time zone of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestTimeZone {
    /// Its name in the time zone database, `Area/City`; absent if the host does not know it.
    pub name: Option<String>,
    /// Its rules (tzfile(5)), for an image without a time zone database; absent if the host has
    /// none.
    #[serde(with = "crate::base64")]
    pub rules: Option<Vec<u8>>,
    /// Whether it replaces a time zone that the image sets.
    pub replaces_image: bool,
}

/// Configuration of the machine's network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestNetwork {
    /// The machine's IPv4 address.
    pub address: Ipv4Addr,
    /// Length of the IPv4 prefix, 0–32.
    pub prefix: u8,
    /// Address of the IPv4 default route.
    pub gateway: Ipv4Addr,
    /// The machine's IPv6 address.
    pub address6: Ipv6Addr,
    /// Length of the IPv6 prefix, 0–128.
    pub prefix6: u8,
    /// Address of the IPv6 default route.
    pub gateway6: Ipv6Addr,
    /// Address of the name server.
    pub dns: Ipv4Addr,
    /// The rest of the resolver's configuration.
    #[serde(default)]
    pub resolver: ResolverSettings,
}

/// Settings of the machine's resolver that follow the host's `/etc/resolv.conf`. They are sent
/// again on [`Port::Resolver`](crate::Port::Resolver) when they change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolverSettings {
    /// Domains that are appended to short names, in order.
    pub search: Vec<String>,
    /// Options, such as `ndots:2` (resolv.conf(5)).
    pub options: Vec<String>,
}

/// The machine's user, a copy of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestUser {
    /// The user's name, the same as on the host.
    pub username: String,
    /// The user's id, the same as on the host.
    pub uid: u32,
    /// The user's group, the same as on the host.
    pub gid: u32,
    /// Absolute path of the home directory; absent for the [usual one](Self::usual_home).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// The user's supplementary groups on the host. Absent for root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GuestGroup>,
}

/// A group of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestGroup {
    /// Group id.
    pub gid: u32,
    /// Name on the host; absent if the group has none.
    pub name: Option<String>,
}

impl GuestUser {
    /// Returns the user's home directory in the guest.
    pub fn directory(&self) -> String {
        self.home.clone().unwrap_or_else(|| self.usual_home())
    }

    /// Returns `/root` for uid 0, else `/home/<user>`.
    pub fn usual_home(&self) -> String {
        if self.uid == 0 {
            "/root".to_owned()
        } else {
            format!("/home/{}", self.username)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_keeps_its_name_on_the_wire() {
        let setup = MachineSetup {
            id: "dev".to_owned(),
            network: None,
            home_share: None,
            mounts: Vec::new(),
            user: GuestUser {
                username: "ada".to_owned(),
                uid: 1000,
                gid: 1000,
                home: None,
                groups: Vec::new(),
            },
            shell: None,
            setup_script: None,
            occasion: BootOccasion::Later,
            rescue: false,
            virtualization: false,
            init_environment: Vec::new(),
            stop_signal: None,
            time_zone: None,
        };
        let written = serde_json::to_value(setup).unwrap();
        assert_eq!(written["home"]["username"], "ada");
        assert!(written.get("user").is_none(), "{written}");
    }
}
