//! Enables virtual machines in the machine (nested virtualization).

use std::io;

use super::{devices, root::GuestRoot};

/// Rule for udev, which would otherwise restrict the device to the group `kvm` (udev(7)).
const RULE: &str = "KERNEL==\"kvm\", MODE=\"0666\"\n";

/// Error of enabling virtual machines.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VirtualizationError {
    /// The kernel has no `/dev/kvm`.
    #[error(
        "virtualization is not supported by the machine's kernel: /dev/kvm not found (the kernel \
         needs CONFIG_KVM, and CONFIG_KVM_AMD or CONFIG_KVM_INTEL for its processor; disable \
         virtualization with `container machine set virtualization=false`, or use the default \
         kernel with `kernel=`)"
    )]
    NoKvm,
    /// Access to the device could not be granted.
    #[error("cannot make /dev/kvm accessible to the machine's users: {0}")]
    Device(io::Error),
}

/// Gives every user of the machine access to `/dev/kvm`.
pub(super) fn enable(root: &GuestRoot) -> Result<(), VirtualizationError> {
    if !root.exists("/dev/kvm") {
        return Err(VirtualizationError::NoKvm);
    }
    let publish = || {
        devices::publish(root, "/dev", "kvm")?;
        root.make_directory("/run/udev/rules.d")?;
        root.write("/run/udev/rules.d/99-container-kvm.rules", RULE, 0o644)
    };
    publish().map_err(VirtualizationError::Device)
}
