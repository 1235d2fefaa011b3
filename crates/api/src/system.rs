//! What runs here, and why.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// This computer, what machines run on here, and why not on something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemInfo {
    /// What carries out the machines' instructions.
    pub accelerator: AcceleratorInfo,
    /// Where everything lies.
    pub directories: Directories,
    /// What runs virtual machines.
    pub engine: EngineInfo,
    /// This computer.
    pub host: HostInfo,
    /// What machines boot.
    pub kernel: KernelInfo,
    /// Whether machines can run inside machines.
    pub virtualization: Ability,
}

/// This computer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostInfo {
    /// As `uname -m` says.
    pub architecture: String,
    /// As `uname -r` says.
    pub kernel: String,
    /// Memory in bytes.
    pub memory: u64,
    /// Processors that this program may use.
    pub processors: u32,
}

/// What runs virtual machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineInfo {
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What carries out the machines' instructions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceleratorInfo {
    /// Those that are not used.
    pub not_used: Vec<NotUsed>,
    /// Why what was asked for cannot be used, so that no machine starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The one that is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
}

/// Something that is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotUsed {
    /// What it is called.
    pub name: String,
    /// Why not.
    pub reason: String,
}

/// What machines boot that name no kernel of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelInfo {
    /// Its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Those that are not used.
    pub not_used: Vec<NotUsed>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The one that config.toml recommends, in its section `[kernel]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommended: Option<RecommendedKernel>,
    /// As `uname -r` says in a machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A kernel that can be fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RecommendedKernel {
    /// The kernel in the archive; none where the address leads to the kernel itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
    /// The digest of what is fetched, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Where it is fetched from.
    pub url: String,
}

/// Whether something can be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ability {
    /// Whether it can.
    pub available: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where everything lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directories {
    /// What people write.
    pub config: PathBuf,
    /// What must not be lost.
    pub data: PathBuf,
    /// What lives as long as processes do.
    pub runtime: PathBuf,
}
