//! The user's runtime directory, `/run/user/UID` (XDG Base Directory Specification).
//!
//! It is mounted before init starts, as systemd mounts it. So it exists under every init, and
//! nothing is mounted over it later: systemd and elogind keep one that is mounted.

use std::{io, os::fd::AsFd};

use nix::mount::{MsFlags, mount};

use super::root::{GuestRoot, descriptor_path};

/// Returns the path of a user's runtime directory.
pub(crate) fn runtime_directory(uid: u32) -> String {
    format!("/run/user/{uid}")
}

/// Mounts the user's runtime directory with the options that systemd uses.
pub(super) fn create(root: &GuestRoot, uid: u32, gid: u32) -> io::Result<()> {
    let path = runtime_directory(uid);
    root.make_directory(&path)?;
    let directory = root.directory(&path)?;
    Ok(mount(
        Some("tmpfs"),
        &descriptor_path(directory.as_fd()),
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(format!("mode=0700,uid={uid},gid={gid},size=10%").as_str()),
    )?)
}
