//! The machine itself: how the agent learns who it is, and how it is told to stop.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// What the host asks on [`Port::Control`](crate::Port::Control).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ControlRequest {
    /// Become this machine: mount, set up, start its init. The first request, sent once.
    Start(Box<MachineSetup>),
    /// Become no machine: mount its disk read-only, so that its changes can be read
    /// ([`Port::Changes`](crate::Port::Changes)), and serve nothing else. In the place of `Start`.
    ReadDisk,
    /// Set the clock to these nanoseconds since 1970 UTC. Sent at the first
    /// [`ControlEvent::Starting`], since a start may wait for the kernel to come up.
    SetClock(u64),
    /// Stop the machine in order, then power off. The stream ends with the machine.
    Stop {
        /// How long init may take before it is killed, in seconds.
        grace_seconds: u32,
    },
}

/// What the agent tells on [`Port::Control`](crate::Port::Control).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ControlEvent {
    /// The machine is still on its way up; told every second, so that one that stands still is
    /// known from one that is slow.
    Starting,
    /// The machine's init runs, its user is there, commands are served.
    Started {
        /// What runs as its init.
        init: InitProgram,
    },
    /// The disk is mounted, its changes can be read.
    DiskIsReady,
    /// The machine cannot start; the agent powers off after this.
    Failed {
        /// What was being done and what went wrong, a sentence.
        message: String,
    },
    /// Init asked for a reboot: the machine is unmounted, and powers off to be started again.
    Rebooting,
}

/// What is asked on [`Port::Changes`](crate::Port::Changes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangesRequest {
    /// Whether the machine's processes stand still meanwhile, so that no file changes.
    pub pause: bool,
}

/// What runs as a machine's init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InitProgram {
    /// The image's own, a path in the machine with all symlinks followed.
    OfImage(String),
    /// The agent's, for images that have no init system.
    BuiltIn,
}

impl fmt::Display for InitProgram {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            InitProgram::OfImage(program) => program,
            InitProgram::BuiltIn => "built-in",
        })
    }
}

/// All that makes a booted kernel this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineSetup {
    /// The machine's id: its host name.
    pub id: String,
    /// The machine's network interface; none without a network.
    pub network: Option<Network>,
    /// The host's directory that the machine shares; none without.
    pub home_share: Option<HomeShare>,
    /// The machine's user and where that user is at home.
    pub home: GuestHome,
    /// The user's login shell, an absolute path; the image's default one where none is named.
    pub shell: Option<String>,
    /// A script that sets the user up in place of the built-in set-up, at the first boot.
    #[serde(with = "crate::base64")]
    pub setup_script: Option<Vec<u8>>,
    /// Whether the user is still to be set up.
    pub first_boot: bool,
    /// Whether it runs virtual machines of its own.
    pub virtualization: bool,
    /// The image's environment for init, `NAME=value`.
    pub init_environment: Vec<String>,
    /// The image's stop signal (a name like `SIGTERM`, or a number), if it names one.
    pub stop_signal: Option<String>,
}

/// The set-up of the machine's one network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// The machine's own address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix, 0–32.
    pub prefix: u8,
    /// The default route.
    pub gateway: Ipv4Addr,
    /// The machine's own address in IPv6.
    pub address6: Ipv6Addr,
    /// Length of the IPv6 network's prefix, 0–128.
    pub prefix6: u8,
    /// The default route in IPv6.
    pub gateway6: Ipv6Addr,
    /// The name server.
    pub dns: Ipv4Addr,
}

/// A directory of the host, mounted in the machine at the path it has on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HomeShare {
    /// The virtio-fs tag.
    pub tag: String,
    /// Absolute path, the same on both sides.
    pub path: String,
    /// Whether the mount refuses writes.
    pub read_only: bool,
}

/// The machine's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestHome {
    /// The user's name, the same as on the host.
    pub username: String,
    /// The user's id, the same as on the host.
    pub uid: u32,
    /// The user's group, the same as on the host.
    pub gid: u32,
}

impl GuestHome {
    /// Where this user is at home in the guest: `/root` for uid 0, else `/home/<user>`.
    pub fn directory(&self) -> String {
        if self.uid == 0 {
            "/root".to_owned()
        } else {
            format!("/home/{}", self.username)
        }
    }
}
