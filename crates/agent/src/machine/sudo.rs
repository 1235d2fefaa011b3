//! Password-less sudo for the machine's user.

use std::{fs, io, os::fd::AsFd, os::unix::fs::PermissionsExt};

use super::root::{GuestRoot, descriptor_path};

/// The rule's file. sudo ignores files with a dot or a tilde in the name (sudoers(5)), which a
/// user's name may contain.
const FILE: &str = "/etc/sudoers.d/container-user";

/// Allows the user everything. The rule has the user's id, because a name may contain characters
/// that have a meaning in sudoers.
///
/// sudo keeps TERM and removes TERMINFO_DIRS, where the entry of a terminal that the image does not
/// know is found.
pub(super) fn grant(root: &GuestRoot, uid: u32) -> io::Result<()> {
    if root.make_directory("/etc/sudoers.d")? {
        let made = root.directory("/etc/sudoers.d")?;
        fs::set_permissions(
            descriptor_path(made.as_fd()),
            fs::Permissions::from_mode(0o750),
        )?;
    }
    let rule = format!(
        "Defaults:#{uid} env_keep += \"TERMINFO_DIRS\"\n#{uid} ALL=(ALL:ALL) NOPASSWD:ALL\n"
    );
    root.write(FILE, &rule, 0o440)
}
