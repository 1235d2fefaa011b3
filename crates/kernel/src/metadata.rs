//! The files of a prepared kernel, and its metadata.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

/// Names of the files of a prepared kernel, which are in one directory.
pub(crate) const VMLINUX: &str = "vmlinux";
pub(crate) const MODULES: &str = "modules.cpio";
pub(crate) const METADATA: &str = "kernel.json";

/// Metadata of a prepared kernel, stored as `kernel.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelMetadata {
    /// The version that the kernel was built as, as `uname -r` prints it.
    pub release: String,
    /// Origin of the kernel, for users: a path, a URL or a package.
    pub source: String,
    /// Whether machines can run virtual machines; `None` when the kernel has no configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtualization: Option<bool>,
}

impl KernelMetadata {
    /// Reads the metadata of the prepared kernel with this image. Returns `None` for an image that
    /// has not been prepared.
    pub fn read(image: &Path) -> Option<KernelMetadata> {
        if image.file_name()? != VMLINUX {
            return None;
        }
        let text = fs::read(image.with_file_name(METADATA)).ok()?;
        serde_json::from_slice(&text).ok()
    }
}
