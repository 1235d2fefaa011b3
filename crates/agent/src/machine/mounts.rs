//! Mounts and unmounts file systems, of the agent and of the machine.
//!
//! The agent's root is the initramfs. The machine's disk is mounted at `/machine`, with everything
//! below it that init finds at its start. Only `/proc` and the cgroups are missing: they depend on
//! init's namespaces and are mounted by its [`stage`](crate::stage).

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use container_protocol::{GuestShare, MountProblem};
use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
};
use tokio::time::sleep;

use super::root::{GuestRoot, descriptor_path};
use crate::{
    kernel_log,
    paths::{DISK, MACHINE, MACHINE_CGROUP},
};

/// Attempts to find the disk, whose driver may still be probing, and to unmount a file system that
/// is in use; and the interval between them.
const DISK_ATTEMPTS: u32 = 500;
const UNMOUNT_ATTEMPTS: u32 = 100;
const INTERVAL: Duration = Duration::from_millis(10);

/// Timeout for the kernel to find the device of a share.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(20);

/// Interval at which the device is looked for. Kernels that do not list them log each attempt.
const DEVICE_INTERVAL: Duration = Duration::from_millis(20);

/// Type of shared directories, and of the file systems below them.
const SHARE_KIND: &str = "virtiofs";

/// Directories of the kernel's virtio-fs devices.
const SHARE_DEVICES: &str = "/sys/fs/virtiofs";

/// Error of mounting a file system of the machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// The disk could not be mounted, or unmounted to be checked.
    #[error("cannot mount the machine's disk: {0}")]
    Disk(io::Error),
    /// A pseudo file system could not be mounted.
    #[error("cannot mount {on} in the machine: {cause}")]
    Pseudo {
        /// Mount point in the machine.
        on: String,
        /// Error of mount(2), or of creating the mount point.
        cause: io::Error,
    },
    /// The shared home could not be mounted.
    #[error("cannot mount the shared home at {path}: {cause}")]
    Home {
        /// Mount point in the machine, which is the directory's path on the host.
        path: String,
        /// Error of mount(2), or of creating the mount point.
        cause: io::Error,
    },
}

impl MountError {
    /// Whether the kernel has found errors in the disk's file system.
    pub(crate) fn is_of_a_damaged_disk(&self) -> bool {
        // EUCLEAN is the kernel's EFSCORRUPTED, EBADMSG its EFSBADCRC. Most damage of the
        // superblock and the group descriptors is only reported as EINVAL.
        const CODES: [i32; 4] = [libc::EUCLEAN, libc::EBADMSG, libc::EINVAL, libc::EIO];
        match self {
            MountError::Disk(error) => error.raw_os_error().is_some_and(|it| CODES.contains(&it)),
            MountError::Pseudo { .. } | MountError::Home { .. } => false,
        }
    }
}

/// Mounts the agent's own file systems and creates the machine's cgroup.
pub(crate) fn mount_for_agent() -> io::Result<()> {
    for (on, kind) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "devtmpfs"),
        ("/sys/fs/cgroup", "cgroup2"),
    ] {
        fs::create_dir_all(on)?;
        match mount(Some(kind), on, Some(kind), MsFlags::empty(), None::<&str>) {
            // With CONFIG_DEVTMPFS_MOUNT the kernel has mounted /dev.
            Ok(()) | Err(nix::Error::EBUSY) => {}
            Err(error) => return Err(name_missing_option(kind, error)),
        }
    }
    fs::create_dir_all(MACHINE)?;
    fs::create_dir_all(MACHINE_CGROUP)?;
    for controller in fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?.split_whitespace() {
        // The machine runs without a controller that cannot be enabled.
        let _ = fs::write(
            "/sys/fs/cgroup/cgroup.subtree_control",
            format!("+{controller}"),
        );
    }
    Ok(())
}

/// Mounts the disk at `/machine`. Waits up to five seconds for it to appear.
pub(crate) fn mount_disk() -> Result<(), MountError> {
    mount_disk_as(MsFlags::empty())
}

/// Mounts the disk read-only. The kernel still replays its journal, which writes to the disk.
pub(crate) fn mount_disk_read_only() -> Result<(), MountError> {
    mount_disk_as(MsFlags::MS_RDONLY)
}

fn mount_disk_as(flags: MsFlags) -> Result<(), MountError> {
    for _ in 0..DISK_ATTEMPTS {
        if Path::new(DISK).exists() {
            break;
        }
        thread::sleep(INTERVAL);
    }
    if !Path::new(DISK).exists() {
        let cause =
            format!("{DISK} not found (the kernel needs CONFIG_VIRTIO_PCI and CONFIG_VIRTIO_BLK)");
        return Err(MountError::Disk(io::Error::other(cause)));
    }
    // The kernel's default is to continue after an error, which may damage more.
    let options = "discard,errors=remount-ro";
    mount(Some(DISK), MACHINE, Some("ext4"), flags, Some(options))
        .map_err(|error| MountError::Disk(name_missing_option("ext4", error)))
}

/// Unmounts the disk before anything else is mounted or opened, if it is mounted.
pub(super) fn unmount_disk() -> io::Result<()> {
    match umount2(MACHINE, MntFlags::empty()) {
        // It is not a mount point.
        Ok(()) | Err(nix::Error::EINVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the error of mounting a file system. If the kernel does not support the file system, the
/// error names its configuration option.
fn name_missing_option(kind: &str, error: nix::Error) -> io::Error {
    let option = match kind {
        "cgroup2" => "CONFIG_CGROUPS",
        "devpts" => "CONFIG_UNIX98_PTYS",
        "devtmpfs" => "CONFIG_DEVTMPFS",
        "ext4" => "CONFIG_EXT4_FS",
        "proc" => "CONFIG_PROC_FS",
        "sysfs" => "CONFIG_SYSFS",
        "tmpfs" => "CONFIG_TMPFS",
        "virtiofs" => "CONFIG_VIRTIO_FS and CONFIG_FUSE_FS",
        _ => return error.into(),
    };
    match error {
        nix::Error::ENODEV => {
            io::Error::other(format!("not supported by the kernel (it needs {option})"))
        }
        error => error.into(),
    }
}

/// Mounts `/dev`, `/sys`, `/run` and the file systems below them in the machine.
pub(crate) fn mount_pseudo(root: &GuestRoot) -> Result<(), MountError> {
    let none = MsFlags::empty();
    let no_devices = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let no_programs = no_devices | MsFlags::MS_NOEXEC;
    for (on, kind, flags, options) in [
        // Only the mount point: the stage mounts it in init's PID namespace.
        ("/proc", None, none, ""),
        ("/sys", Some("sysfs"), no_programs, ""),
        ("/dev", Some("devtmpfs"), MsFlags::MS_NOSUID, "mode=755"),
        (
            "/dev/pts",
            Some("devpts"),
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            // Group 5 is "tty" in all distributions.
            "gid=5,mode=620,ptmxmode=666",
        ),
        ("/dev/shm", Some("tmpfs"), no_devices, "mode=1777"),
        ("/run", Some("tmpfs"), no_devices, "mode=755"),
    ] {
        let mounted = root.make_directory(on).and_then(|_| {
            let Some(kind) = kind else { return Ok(()) };
            let directory = root.directory(on)?;
            let target = descriptor_path(directory.as_fd());
            mount(Some(kind), &target, Some(kind), flags, Some(options))
                .map_err(|error| name_missing_option(kind, error))
        });
        mounted.map_err(|cause| MountError::Pseudo {
            on: on.to_owned(),
            cause,
        })?;
    }
    make_device_links(root).map_err(|cause| MountError::Pseudo {
        on: "/dev".to_owned(),
        cause,
    })
}

/// Links in `/dev` that programs expect and that not every init creates.
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

/// Mounts the shared home at the path that it has on the host.
pub(crate) fn mount_home(root: &GuestRoot, share: &GuestShare) -> Result<(), MountError> {
    mount_share(root, share).map_err(|cause| MountError::Home {
        path: share.path.clone(),
        cause,
    })
}

/// Mounts a share.
fn mount_share(root: &GuestRoot, share: &GuestShare) -> io::Result<()> {
    root.make_directory(&share.path)?;
    let directory = root.directory(&share.path)?;
    mount_share_on(&descriptor_path(directory.as_fd()), share)
}

/// Mounts a share in the mount namespace of this thread, whose root is the machine's, and whose
/// `/proc` shows no process of the agent.
pub(crate) fn mount_share_at_root(share: &GuestShare) -> io::Result<()> {
    let root = GuestRoot::at(Path::new("/"))?;
    root.make_directory(&share.path)?;
    nix::unistd::fchdir(root.directory(&share.path)?)?;
    let mounted = mount_share_on(Path::new("."), share);
    nix::unistd::chdir("/")?;
    mounted
}

fn mount_share_on(target: &Path, share: &GuestShare) -> io::Result<()> {
    let flags = if share.read_only {
        MsFlags::MS_RDONLY
    } else {
        MsFlags::empty()
    };
    let mounted = mount(
        Some(share.tag.as_str()),
        target,
        Some(SHARE_KIND),
        flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        None::<&str>,
    );
    mounted.map_err(|error| name_missing_option(SHARE_KIND, error))
}

/// Mounts all shares besides the home, in order. Returns those that are not possible.
pub(crate) async fn mount_all(root: &GuestRoot, shares: &[GuestShare]) -> Vec<MountProblem> {
    let mut problems = Vec::new();
    for share in shares {
        if let Err(error) = mount_when_found(root, share).await {
            let problem = error.to_string();
            kernel_log::error(&format!("cannot mount {}: {problem}", share.path));
            problems.push(MountProblem {
                path: share.path.clone(),
                problem,
            });
        }
    }
    problems
}

/// Mounts a share as soon as the kernel has found its device.
pub(crate) async fn mount_when_found(root: &GuestRoot, share: &GuestShare) -> io::Result<()> {
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    loop {
        let found = has_device(&share.tag)?;
        if found != Some(false) {
            let mounted = mount_share(root, share);
            let is_missing = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
            if found.is_some() || !mounted.as_ref().is_err_and(is_missing) {
                return mounted;
            }
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(
                "the machine's kernel does not find the device (it needs \
                 CONFIG_HOTPLUG_PCI_ACPI, CONFIG_HOTPLUG_PCI_PCIE and CONFIG_VIRTIO_FS)",
            ));
        }
        sleep(DEVICE_INTERVAL).await;
    }
}

/// Returns whether there is a virtio-fs device with this tag. Kernels before Linux 6.9 do not say.
fn has_device(tag: &str) -> io::Result<Option<bool>> {
    let devices = match fs::read_dir(SHARE_DEVICES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        devices => devices?,
    };
    for device in devices {
        // Fails if it is just being removed.
        let found = fs::read_to_string(device?.path().join("tag")).unwrap_or_default();
        if found.trim_end() == tag {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

/// Returns where a share is mounted, from the text of `/proc/PID/mounts`.
pub(crate) fn mount_points(mounts: &str, tag: &str) -> Vec<PathBuf> {
    let of_share = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, on, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (device == tag && kind == SHARE_KIND).then(|| PathBuf::from(unescape(on)))
    });
    of_share.collect()
}

/// Unmounts the machine's file systems, deepest first. One that stays in use is made read-only,
/// which also leaves the disk clean.
pub(crate) fn unmount_machine() {
    nix::unistd::sync();
    // Not /proc/self: the first thread's root may differ.
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
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

/// Unmounts a file system, retrying for a second: the kernel releases the mounts of a process
/// shortly after the process has ended.
fn unmount(on: &str) {
    for _ in 0..UNMOUNT_ATTEMPTS {
        match umount2(on, MntFlags::empty()) {
            Err(nix::Error::EBUSY) => thread::sleep(INTERVAL),
            _ => return,
        }
    }
    kernel_log::error(&format!("{on} is still in use; making it read-only"));
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    if let Err(error) = mount(None::<&str>, on, None::<&str>, flags, None::<&str>) {
        kernel_log::error(&format!("cannot make {on} read-only: {error}"));
    }
}

/// Undoes the octal escapes of `/proc/self/mounts` (space, tab, newline, backslash).
fn unescape(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_those_of_the_share() {
        let mounts = "mount0 /srv/a\\040b virtiofs rw,nosuid 0 0\n\
                      mount0 /other tmpfs rw 0 0\n\
                      mount01 /c virtiofs rw 0 0\n\
                      mount0 /d virtiofs ro 0 0\n";
        let found = mount_points(mounts, "mount0");
        assert_eq!(found, ["/srv/a b", "/d"].map(PathBuf::from));
    }
}
