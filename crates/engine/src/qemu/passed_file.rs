//! Files that QEMU reaches by descriptors of ours, because it may not open them by their paths:
//! what it writes besides the disk.

/// Descriptors of one file that QEMU has (qemu-qmp-ref(7), `add-fd`).
#[derive(Debug)]
pub(super) struct PassedFile {
    /// Number of the set of descriptors.
    pub set: i64,
}

impl PassedFile {
    /// Returns the path under which QEMU opens the file, in a mode that one of the descriptors has.
    pub(super) fn path(&self) -> String {
        format!("/dev/fdset/{}", self.set)
    }
}
