//! Directories, disk space, memory and limits.

use std::fs;

use container_api::Check;
use container_machine::{Directories, FreeSpace, Memory};
use nix::sys::resource::{Resource, getrlimit};

use crate::{checks::MIN_FREE_SPACE, host_resources::HostResources};

/// Open files with which a machine has as many connections as its network allows.
const MANY_FILES: u64 = 16_384;

/// Open files without which machines with a shared home do not boot reliably.
const FEW_FILES: u64 = 1024;

/// Watched files of the shared home below which a large project is not watched completely.
const MANY_MARKS: u64 = 8192;

/// Reports the directories, which exist and belong to the user.
pub(super) fn directories(directories: &Directories) -> Check {
    let Directories {
        data,
        config,
        runtime,
    } = directories;
    let name = "directories";
    let message = format!(
        "data in {}, configuration in {}, sockets in {}",
        data.display(),
        config.display(),
        runtime.display()
    );
    // They are private, but programs that clean /tmp remove what is old.
    if runtime.starts_with("/tmp") {
        return Check::warning(name, message).with_fix(
            "set XDG_RUNTIME_DIR, or log in with systemd, so that sockets are not in /tmp",
        );
    }
    Check::ok(name, message)
}

/// Checks the free space for images and machines.
pub(super) fn disk_space(directories: &Directories, least: FreeSpace) -> Check {
    let data = &directories.data;
    match FreeSpace::at(data) {
        Some(free) => judge_space(free, least, &data.display().to_string()),
        None => Check::ok(
            "disk-space",
            "the file system does not report its free space",
        ),
    }
}

fn judge_space(free: FreeSpace, least: FreeSpace, place: &str) -> Check {
    let name = "disk-space";
    let message = format!("{free} are free in {place}");
    let fix = "container system df shows what can be removed, container system prune --all removes \
               unused images and templates";
    if free.bytes() < MIN_FREE_SPACE {
        Check::problem(name, message).with_fix(fix)
    } else if free < least {
        Check::warning(name, message).with_fix(fix)
    } else {
        Check::ok(name, message)
    }
}

/// Checks that there is memory for a machine.
pub(super) fn memory() -> Check {
    judge_memory(HostResources::detect())
}

fn judge_memory(host: HostResources) -> Check {
    let name = "memory";
    let Some(available) = host.available else {
        return Check::ok(name, "the kernel does not report the available memory");
    };
    let message = format!(
        "{} MiB of {} MiB are available",
        available >> 20,
        host.memory >> 20
    );
    if available < Memory::MIN {
        Check::warning(name, message).with_fix(
            "stop machines that are not needed (container machine suspend keeps their programs)",
        )
    } else {
        Check::ok(name, message)
    }
}

/// Checks the limit of open files.
pub(super) fn open_files() -> Check {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) => judge_files(hard),
        Err(error) => Check::warning("open-files", format!("the limit cannot be read: {error}")),
    }
}

fn judge_files(hard: u64) -> Check {
    let name = "open-files";
    let message = format!("each process may have {hard} open files");
    let fix = "raise the hard limit: LimitNOFILE= of the systemd unit, or nofile in \
               /etc/security/limits.conf; then log in again";
    if hard < FEW_FILES {
        Check::problem(name, message).with_fix(fix)
    } else if hard < MANY_FILES {
        let message = format!("{message}, which limits the connections of a machine");
        Check::warning(name, message).with_fix(fix)
    } else {
        Check::ok(name, message)
    }
}

/// Checks that programs in machines see changes of files in the shared home.
pub(super) fn file_events() -> Check {
    let marks = fs::read_to_string("/proc/sys/fs/fanotify/max_user_marks");
    let marks = marks.ok().and_then(|text| text.trim().parse().ok());
    match container_runtime::check_file_events() {
        Ok(()) => judge_marks(marks),
        Err(error) => Check::warning(
            "file-events",
            format!(
                "programs in machines do not see changes of files in the shared home: fanotify \
                 cannot be used ({error}; it needs Linux 5.13)"
            ),
        ),
    }
}

fn judge_marks(marks: Option<u64>) -> Check {
    let name = "file-events";
    match marks {
        Some(marks) if marks < MANY_MARKS => Check::warning(
            name,
            format!("programs in machines can watch {marks} files and directories of the home"),
        )
        .with_fix("sudo sysctl fs.fanotify.max_user_marks=65536"),
        Some(marks) => Check::ok(
            name,
            format!("machines can watch {marks} files and directories of the home"),
        ),
        None => Check::ok(name, "machines can watch files of the home"),
    }
}

#[cfg(test)]
mod tests {
    use container_api::CheckStatus;

    use super::*;

    #[test]
    fn little_space_is_a_warning_and_none_a_problem() {
        let status = |mebibytes: u64| {
            let free = FreeSpace::from(mebibytes << 20);
            judge_space(free, FreeSpace::default(), "/data").status
        };
        assert_eq!(status(2048), CheckStatus::Ok);
        assert_eq!(status(2047), CheckStatus::Warning);
        assert_eq!(status(63), CheckStatus::Problem);
    }

    #[test]
    fn little_memory_is_a_warning() {
        let status = |available: Option<u64>| {
            let host = HostResources {
                cores: 1,
                memory: 8 << 30,
                available,
            };
            judge_memory(host).status
        };
        assert_eq!(status(Some(1 << 30)), CheckStatus::Ok);
        assert_eq!(status(Some(1 << 29)), CheckStatus::Warning);
        assert_eq!(status(None), CheckStatus::Ok);
    }

    #[test]
    fn low_limits_have_a_fix() {
        assert_eq!(judge_files(1 << 20).status, CheckStatus::Ok);
        assert_eq!(judge_files(4096).status, CheckStatus::Warning);
        assert!(judge_files(256).fix.is_some());
        assert_eq!(judge_files(256).status, CheckStatus::Problem);
        assert_eq!(judge_marks(Some(100)).status, CheckStatus::Warning);
        assert_eq!(judge_marks(Some(8192)).status, CheckStatus::Ok);
    }
}
