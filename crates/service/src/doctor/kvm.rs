//! How a user gets access to KVM.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use container_engine::KvmObstacle;
use container_machine::UserSetup;
use nix::unistd::{Gid, Group, getgroups};

/// Permissions of a group to read and write (inode(7)).
const GROUP_MAY_USE: u32 = 0o060;

/// What this host says about KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    /// Name of the module for this processor.
    module: &'static str,
    user: String,
    /// The group that may use the device; absent if none may, or there is no device.
    group: Option<KvmGroup>,
}

/// A group of users.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KvmGroup {
    name: String,
    /// Whether the database of groups lists the user as a member.
    is_listed: bool,
    /// Whether this process is in the group.
    has: bool,
}

/// Returns what to do about an obstacle.
pub(super) fn fix(obstacle: &KvmObstacle) -> String {
    match obstacle {
        KvmObstacle::Processor => "enable virtualization (VT-x, AMD-V, SVM) in the firmware's \
                                   settings; if this host is a virtual machine, enable nested \
                                   virtualization for it"
            .to_owned(),
        KvmObstacle::Device { device, cause } => {
            device_fix(device, cause.kind(), &Host::read(device))
        }
    }
}

fn device_fix(device: &Path, error: io::ErrorKind, host: &Host) -> String {
    let device = device.display();
    if error != io::ErrorKind::PermissionDenied {
        return format!("sudo modprobe {}", host.module);
    }
    match &host.group {
        None => format!("sudo chgrp kvm {device} && sudo chmod g+rw {device}"),
        Some(group) if group.is_listed && !group.has => format!(
            "log out and in again: you are a member of the group {}, and this session is not",
            group.name
        ),
        Some(group) => format!(
            "sudo usermod -aG {} {}, then log out and in again",
            group.name, host.user
        ),
    }
}

impl Host {
    fn read(device: &Path) -> Host {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let user = UserSetup::current().map_or_else(|_| "$USER".to_owned(), |user| user.username);
        Host {
            module: if cpuinfo.contains(" svm ") {
                "kvm_amd"
            } else {
                "kvm_intel"
            },
            group: read_group(device, &user),
            user,
        }
    }
}

fn read_group(device: &Path, user: &str) -> Option<KvmGroup> {
    let metadata = fs::metadata(device).ok()?;
    let gid = Gid::from_raw(metadata.gid());
    // Nobody should become a member of root's group.
    if metadata.mode() & GROUP_MAY_USE != GROUP_MAY_USE || gid.as_raw() == 0 {
        return None;
    }
    let group = Group::from_gid(gid).ok()??;
    Some(KvmGroup {
        is_listed: group.mem.iter().any(|member| member == user),
        has: getgroups().is_ok_and(|groups| groups.contains(&gid)),
        name: group.name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fix_depends_on_what_is_missing() {
        let mut host = Host {
            module: "kvm_amd",
            user: "ann".to_owned(),
            group: None,
        };
        let fix = |error, host: &Host| device_fix(Path::new("/dev/kvm"), error, host);
        assert_eq!(fix(io::ErrorKind::NotFound, &host), "sudo modprobe kvm_amd");
        let denied = io::ErrorKind::PermissionDenied;
        assert!(fix(denied, &host).contains("chmod g+rw /dev/kvm"));
        host.group = Some(KvmGroup {
            name: "kvm".to_owned(),
            is_listed: false,
            has: false,
        });
        assert!(fix(denied, &host).starts_with("sudo usermod -aG kvm ann"));
        host.group.as_mut().unwrap().is_listed = true;
        assert!(fix(denied, &host).starts_with("log out and in again"));
    }
}
