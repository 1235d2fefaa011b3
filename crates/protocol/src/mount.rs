//! Directories of the host that a machine mounts: the home, and others.

use serde::{Deserialize, Serialize};

/// A directory of the host that the machine mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestShare {
    /// virtio-fs tag, which the guest mounts as the device name.
    pub tag: String,
    /// Absolute path in the machine. That of the home is the same on the host.
    pub path: String,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Paths in it of directories that the machine has for itself. The share has an empty directory
    /// at each.
    #[serde(default)]
    pub private: Vec<String>,
}

/// The request on a stream of [`Port::Mounts`](crate::Port::Mounts). It is answered by one
/// [`MountReply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountRequest {
    /// Mount these in order. Their devices appear soon if they are not there yet.
    Mount(Vec<GuestShare>),
    /// Unmount those with these virtio-fs tags, in order. Either all are unmounted or none.
    Unmount(Vec<String>),
}

/// Answer to a change of mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountReply {
    /// It is done, except for these.
    Done(Vec<MountProblem>),
    /// Nothing was changed, because this mount is in use and cannot be removed.
    InUse(MountProblem),
}

/// A directory that is not mounted or not removed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountProblem {
    /// Path in the machine.
    pub path: String,
    /// Sentence without a capital letter and a full stop.
    pub problem: String,
}

impl std::fmt::Display for MountProblem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.path, self.problem)
    }
}
