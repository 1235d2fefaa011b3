//! What is mounted where.
//!
//! The agent lives in the initramfs; the machine's disk is at `/machine` with everything that
//! init will find below it, except what depends on init's own namespaces (`/proc`, cgroups),
//! which [`stage`](crate::stage) adds.

use std::{fs, io, os::fd::AsFd, path::Path, thread, time::Duration};

use container_protocol::HomeShare;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::root::{GuestRoot, MACHINE, descriptor_path};

/// The machine's disk.
pub const DISK: &str = "/dev/vda";

/// The cgroup that holds the machine, and that its init sees as the root of all.
pub const MACHINE_CGROUP: &str = "/sys/fs/cgroup/machine";

/// Why something could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The disk.
    #[error("mounting the machine's disk: {0}")]
    Disk(#[source] io::Error),
    /// One of the kernel's own file systems.
    #[error("mounting {on} in the machine: {source}")]
    Pseudo {
        /// Where.
        on: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The shared home.
    #[error("mounting the shared home at {path}: {source}")]
    Home {
        /// Where.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// Mounts what the agent itself needs, and makes the machine's cgroup.
pub fn early() -> io::Result<()> {
    for (on, kind) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "devtmpfs"),
        ("/sys/fs/cgroup", "cgroup2"),
    ] {
        fs::create_dir_all(on)?;
        match mount(Some(kind), on, Some(kind), MsFlags::empty(), None::<&str>) {
            // The kernel may have mounted /dev by itself.
            Ok(()) | Err(nix::Error::EBUSY) => {}
            Err(error) => return Err(explained(kind, error)),
        }
    }
    fs::create_dir_all(MACHINE)?;
    fs::create_dir_all(MACHINE_CGROUP)?;
    for controller in fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?.split_whitespace() {
        // One that cannot be handed down is one the machine does without.
        let _ = fs::write(
            "/sys/fs/cgroup/cgroup.subtree_control",
            format!("+{controller}"),
        );
    }
    Ok(())
}

/// Mounts the disk at `/machine`, waiting up to five seconds for its driver to find it.
pub fn mount_disk() -> Result<(), MountError> {
    mount_disk_as(MsFlags::empty())
}

/// As [`mount_disk`], and refuses writes; what its journal still holds is written all the same.
pub fn mount_disk_read_only() -> Result<(), MountError> {
    mount_disk_as(MsFlags::MS_RDONLY)
}

fn mount_disk_as(flags: MsFlags) -> Result<(), MountError> {
    for _ in 0..500 {
        if Path::new(DISK).exists() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    if !Path::new(DISK).exists() {
        let reason = "there is none: has the kernel CONFIG_VIRTIO_PCI and CONFIG_VIRTIO_BLK?";
        return Err(MountError::Disk(io::Error::other(reason)));
    }
    mount(Some(DISK), MACHINE, Some("ext4"), flags, Some("discard"))
        .map_err(|error| MountError::Disk(explained("ext4", error)))
}

/// Why a file system could not be mounted: the option that the kernel lacks, if that is why.
fn explained(kind: &str, error: nix::Error) -> io::Error {
    let option = match kind {
        "cgroup2" => "CONFIG_CGROUPS",
        "devpts" => "CONFIG_UNIX98_PTYS",
        "devtmpfs" => "CONFIG_DEVTMPFS",
        "ext4" => "CONFIG_EXT4_FS",
        "proc" => "CONFIG_PROC_FS",
        "sysfs" => "CONFIG_SYSFS",
        "tmpfs" => "CONFIG_TMPFS",
        "virtiofs" => "CONFIG_VIRTIO_FS, or no CONFIG_FUSE_FS",
        _ => return error.into(),
    };
    match error {
        nix::Error::ENODEV => io::Error::other(format!("the kernel has no {option}")),
        error => error.into(),
    }
}

/// Mounts `/dev`, `/sys`, `/run` and what is below them in the machine.
pub fn mount_pseudo(root: &GuestRoot) -> Result<(), MountError> {
    let none = MsFlags::empty();
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let inert = guarded | MsFlags::MS_NOEXEC;
    for (on, kind, flags, options) in [
        ("/proc", None, none, ""),
        ("/sys", Some("sysfs"), inert, ""),
        ("/dev", Some("devtmpfs"), MsFlags::MS_NOSUID, "mode=755"),
        (
            "/dev/pts",
            Some("devpts"),
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            "gid=5,mode=620,ptmxmode=666",
        ),
        ("/dev/shm", Some("tmpfs"), guarded, "mode=1777"),
        ("/run", Some("tmpfs"), guarded, "mode=755"),
    ] {
        let mounted = root.make_directory(on).and_then(|_| {
            let Some(kind) = kind else { return Ok(()) };
            let directory = root.directory(on)?;
            let target = descriptor_path(directory.as_fd());
            mount(Some(kind), &target, Some(kind), flags, Some(options))
                .map_err(|error| explained(kind, error))
        });
        mounted.map_err(|source| MountError::Pseudo {
            on: on.to_owned(),
            source,
        })?;
    }
    make_device_links(root).map_err(|source| MountError::Pseudo {
        on: "/dev".to_owned(),
        source,
    })
}

/// What programs expect in `/dev` beside the devices; most inits make it, some do not.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

fn make_device_links(root: &GuestRoot) -> io::Result<()> {
    let devices = root.directory("/dev")?;
    for (target, name) in DEVICE_LINKS {
        match rustix::fs::symlinkat(target, &devices, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Mounts the host's directory at the path that it has on the host.
pub fn mount_home(root: &GuestRoot, share: &HomeShare) -> Result<(), MountError> {
    let flags = if share.read_only {
        MsFlags::MS_RDONLY
    } else {
        MsFlags::empty()
    };
    let mounted = root.make_directory(&share.path).and_then(|_| {
        let directory = root.directory(&share.path)?;
        let target = descriptor_path(directory.as_fd());
        Ok(mount(
            Some(share.tag.as_str()),
            &target,
            Some("virtiofs"),
            flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            None::<&str>,
        )?)
    });
    mounted.map_err(|source| MountError::Home {
        path: share.path.clone(),
        source,
    })
}

/// Unmounts the machine, deepest first. What cannot be unmounted is made read-only, so that
/// the disk is clean either way.
pub fn unmount_machine() {
    nix::unistd::sync();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below: Vec<String> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(unescape)
        .filter(|on| on == MACHINE || on.starts_with(&format!("{MACHINE}/")))
        .collect();
    for on in below.iter().rev() {
        unmount(on);
    }
}

/// Tries for a second: the last processes' own hold on a mount ends a moment after they do.
fn unmount(on: &str) {
    for _ in 0..100 {
        match umount2(on, MntFlags::empty()) {
            Err(nix::Error::EBUSY) => thread::sleep(Duration::from_millis(10)),
            _ => return,
        }
    }
    crate::power::say(&format!("{on} is still in use; making it read-only"));
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    if let Err(error) = mount(None::<&str>, on, None::<&str>, flags, None::<&str>) {
        crate::power::say(&format!("making {on} read-only: {error}"));
    }
}

/// Undoes the octal escapes of `/proc/self/mounts` (space, tab, newline, backslash).
fn unescape(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}
