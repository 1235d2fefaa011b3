//! Disk usage of what the program stores.

use serde::{Deserialize, Serialize};

/// Disk usage of everything that the program stores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// One entry for each kind.
    pub usage: Vec<Usage>,
}

/// Disk usage of one kind. The fields are in alphabetical order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Number of items.
    pub count: usize,
    /// Number of items that are in use: images and bases of machines, running machines, templates
    /// that machines can start from, the default kernel.
    pub in_use: usize,
    /// Kind of the items.
    pub kind: UsageKind,
    /// Part of `size` that pruning frees, with `all` if it has that option.
    pub reclaimable: u64,
    /// Disk usage in bytes.
    pub size: u64,
}

/// Kind of stored items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UsageKind {
    /// Images: manifests, configurations and layers.
    Images,
    /// Base images, unpacked from images.
    BaseImages,
    /// Machines: disks with their snapshots, and logs.
    Machines,
    /// Templates that machines start from.
    Templates,
    /// Kernels that were added by the user.
    Kernels,
}
