//! Powers the virtual machine off.

use std::process::ExitCode;

use nix::sys::reboot::{RebootMode, reboot};

use crate::kernel_log;

/// Powers the virtual machine off. Returns only if the kernel refuses.
pub(crate) fn off() -> ExitCode {
    nix::unistd::sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    kernel_log::error(&format!("cannot power off: {error}"));
    ExitCode::FAILURE
}
