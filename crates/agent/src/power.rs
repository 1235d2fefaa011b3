//! The end of the machine.

use std::process::ExitCode;

use nix::sys::reboot::{RebootMode, reboot};

/// Writes a line to the kernel's log, which the host keeps as the machine's boot log.
pub fn say(message: &str) {
    // Without /dev/kmsg there is nowhere left to say it.
    let _ = std::fs::write("/dev/kmsg", format!("<3>agent: {message}\n"));
}

/// Powers the virtual machine off. Returns only where the kernel refuses.
pub fn off() -> ExitCode {
    nix::unistd::sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    say(&format!("powering off: {error}"));
    ExitCode::FAILURE
}
