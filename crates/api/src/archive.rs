//! Exported machines: requests.

use std::path::PathBuf;

use container_machine::{HomeMount, MachineId};
use serde::{Deserialize, Serialize};

/// Request to export a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportRequest {
    /// Whether the archive has the machine's snapshots too.
    pub snapshots: bool,
}

/// Request to import a machine. It is the query of the URL, because the body is the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportRequest {
    /// Id of the new machine; that of the exported one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<MachineId>,
    /// The caller's home directory.
    pub home: PathBuf,
    /// Mode of the shared home; that of the exported machine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_mount: Option<HomeMount>,
    /// Whether the machine becomes the default machine even if there is one.
    pub set_default: bool,
}
