//! Virtual machines in the machine.

use std::io;

use super::{devices, root::GuestRoot};

/// What udev gives the device to a group for, which the machine's user need not be in (udev(7)).
const RULE: &str = "KERNEL==\"kvm\", MODE=\"0666\"\n";

/// Why virtual machines cannot run in it.
#[derive(Debug, thiserror::Error)]
pub enum VirtualizationError {
    /// The kernel or the processor does not virtualize.
    #[error(
        "the machine is to run virtual machines, and its kernel does not: it has no CONFIG_KVM, or neither CONFIG_KVM_AMD nor CONFIG_KVM_INTEL for its processor; `container machine set virtualization=false` does without, `kernel=` takes the default kernel"
    )]
    NoKvm,
    /// The device could not be given to the machine's user.
    #[error("giving /dev/kvm to the machine's user: {0}")]
    Device(#[source] io::Error),
}

/// Lets every user of the machine use KVM's device.
pub fn open(root: &GuestRoot) -> Result<(), VirtualizationError> {
    if !root.exists("/dev/kvm") {
        return Err(VirtualizationError::NoKvm);
    }
    let opened = || {
        devices::open_one(root, "/dev", "kvm")?;
        root.make_directory("/run/udev/rules.d")?;
        root.write("/run/udev/rules.d/99-container-kvm.rules", RULE, 0o644)
    };
    opened().map_err(VirtualizationError::Device)
}
