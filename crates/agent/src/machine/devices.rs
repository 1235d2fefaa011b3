//! Gives every user of the machine access to devices.

use std::{io, os::fd::AsFd};

use rustix::fs::{AtFlags, Mode, chmodat};

use super::root::GuestRoot;

/// Devices that udev makes accessible to everyone (50-udev-default.rules). Rootless containers need
/// both, and a machine may run without udev.
const PUBLIC_DEVICES: [(&str, &str); 2] = [("/dev", "fuse"), ("/dev/net", "tun")];

/// Makes the public devices that the kernel provides accessible to everyone.
pub(super) fn publish_all(root: &GuestRoot) -> io::Result<()> {
    for (directory, name) in PUBLIC_DEVICES {
        if root.exists(&format!("{directory}/{name}")) {
            publish(root, directory, name)?;
        }
    }
    Ok(())
}

/// Makes one device accessible to everyone.
pub(super) fn publish(root: &GuestRoot, directory: &str, name: &str) -> io::Result<()> {
    let directory = root.directory(directory)?;
    let mode = Mode::from_raw_mode(0o666);
    Ok(chmodat(directory.as_fd(), name, mode, AtFlags::empty())?)
}
