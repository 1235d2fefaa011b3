//! Images without udev. systemd-networkd and others wait until udev has initialized a network
//! interface whenever `/sys` is writable, as it is in a machine, and would wait for ever.

use std::{fs, io};

use super::root::GuestRoot;

/// Paths of udev's daemon.
const DAEMONS: [&str; 4] = [
    "/usr/lib/systemd/systemd-udevd",
    "/lib/systemd/systemd-udevd",
    "/sbin/udevd",
    "/usr/sbin/udevd",
];

/// Directory of udev's database.
const DATABASE: &str = "/run/udev/data";

/// Marks all network interfaces as initialized in udev's database, if the image has no udev.
pub(super) fn mark_interfaces(root: &GuestRoot) -> io::Result<()> {
    if DAEMONS.iter().any(|daemon| root.exists(daemon)) {
        return Ok(());
    }
    root.make_directory(DATABASE)?;
    for interface in fs::read_dir("/sys/class/net")? {
        // Not every entry is an interface: `bonding_masters` is a file.
        let Ok(index) = fs::read_to_string(interface?.path().join("ifindex")) else {
            continue;
        };
        // The time of the initialization, in microseconds since the boot.
        root.write(&format!("{DATABASE}/n{}", index.trim()), "I:1\n", 0o644)?;
    }
    Ok(())
}
