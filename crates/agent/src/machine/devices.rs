//! Devices that are every user's.

use std::{io, os::fd::AsFd};

use rustix::fs::{AtFlags, Mode, chmodat};

use super::root::GuestRoot;

/// What udev gives to everybody (its rules, 50-udev-default), for machines without it: containers of
/// ordinary users need both.
const OPEN: [(&str, &str); 2] = [("/dev", "fuse"), ("/dev/net", "tun")];

/// Opens them, as far as the kernel has them.
pub fn open(root: &GuestRoot) -> io::Result<()> {
    for (directory, name) in OPEN {
        if root.exists(&format!("{directory}/{name}")) {
            open_one(root, directory, name)?;
        }
    }
    Ok(())
}

/// Opens one.
pub fn open_one(root: &GuestRoot, directory: &str, name: &str) -> io::Result<()> {
    let directory = root.directory(directory)?;
    let mode = Mode::from_raw_mode(0o666);
    Ok(chmodat(directory.as_fd(), name, mode, AtFlags::empty())?)
}
