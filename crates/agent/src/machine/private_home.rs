//! Directories of the shared home that the machine has for itself: directories of its disk, mounted
//! over the share's.

use std::{io, os::fd::AsFd, path::Path};

use container_protocol::{GuestShare, GuestUser};
use nix::mount::{MsFlags, mount};
use rustix::fs::{AtFlags, Gid, Mode, Uid, chmodat, chownat};

use super::root::{GuestRoot, descriptor_path};
use crate::kernel_log;

/// Directory of the machine's disk with the private directories, each at its path in the home.
const DIRECTORY: &str = "/var/lib/container-machine/home";

/// Mounts all private directories. One that cannot be mounted is empty in the machine, which is
/// logged: the machine works without it.
pub(super) fn mount_all(root: &GuestRoot, share: &GuestShare, user: &GuestUser) {
    for path in &share.private {
        if let Err(error) = mount_one(root, share, user, path) {
            kernel_log::error(&format!(
                "cannot mount the machine's own {path} in the shared home: {error}"
            ));
        }
    }
}

fn mount_one(root: &GuestRoot, share: &GuestShare, user: &GuestUser, path: &str) -> io::Result<()> {
    let source_path = format!("{DIRECTORY}/{path}");
    if root.make_directory(&source_path)? {
        give_to_user(root, &source_path, user)?;
    }
    let source = root.directory(&source_path)?;
    let target = root.directory(&format!("{}/{path}", share.path))?;
    // Without the options of the share: containers in it have set-user-ID programs.
    mount(
        Some(&descriptor_path(source.as_fd())),
        &descriptor_path(target.as_fd()),
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}

/// Makes a new directory accessible to the user only.
fn give_to_user(root: &GuestRoot, path: &str, user: &GuestUser) -> io::Result<()> {
    let path = Path::new(path);
    let (Some(parent), Some(name)) = (path.parent().and_then(Path::to_str), path.file_name())
    else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let parent = root.directory(parent)?;
    chmodat(&parent, name, Mode::from_raw_mode(0o700), AtFlags::empty())?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    chownat(
        &parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}
