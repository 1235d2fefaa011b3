//! Processes that the kernel has killed because memory was used up.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::{Pid, getsid};

/// Where the unified hierarchy of cgroups is mounted (cgroups(7)).
const CGROUPS: &str = "/sys/fs/cgroup";

/// Number of these processes at a time when none of interest was among them.
#[derive(Debug, Clone)]
pub(super) struct OutOfMemoryKills {
    /// Those of this process's cgroup; absent if the kernel does not count them.
    cgroup: Option<CgroupKills>,
    /// Those of the whole host.
    host: Option<u64>,
}

#[derive(Debug, Clone)]
struct CgroupKills {
    directory: PathBuf,
    /// Whether this session's processes are alone in the cgroup.
    is_own: bool,
    number: u64,
}

impl CgroupKills {
    fn read(directory: PathBuf) -> Option<CgroupKills> {
        let number = cgroup_kills(&directory)?;
        Some(CgroupKills {
            is_own: is_own(&directory),
            directory,
            number,
        })
    }
}

/// What is known about the reason why a process was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// The kernel has killed a process of the machine because memory was used up.
    Certain,
    /// It has killed a process, which may be another one.
    Probable,
}

impl OutOfMemoryKills {
    /// Reads the current number.
    pub(super) fn read() -> OutOfMemoryKills {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let directory = cgroup_directory(&cgroups);
        OutOfMemoryKills {
            cgroup: directory.and_then(CgroupKills::read),
            host: host_kills(),
        }
    }

    /// Returns the reason why a program was killed, if the kernel may have killed it for lack of
    /// memory since `self` was read.
    pub(super) fn explain(&self, program: &str) -> Option<String> {
        let evidence = match &self.cgroup {
            Some(cgroup) => cgroup_evidence(cgroup, cgroup_kills(&cgroup.directory)),
            None => host_evidence(self.host, host_kills()),
        };
        evidence.map(|evidence| message(program, evidence))
    }
}

/// The kernel counts in a process's own cgroup, whichever limit or lack was the reason.
fn cgroup_evidence(before: &CgroupKills, now: Option<u64>) -> Option<Evidence> {
    let evidence = if before.is_own {
        Evidence::Certain
    } else {
        Evidence::Probable
    };
    (now? > before.number).then_some(evidence)
}

fn host_evidence(before: Option<u64>, now: Option<u64>) -> Option<Evidence> {
    (now? > before?).then_some(Evidence::Probable)
}

fn message(program: &str, evidence: Evidence) -> String {
    let reason = match evidence {
        Evidence::Certain => "the host, or a limit of this session, was out of memory",
        Evidence::Probable => {
            "probably the host, or a limit of this session, was out of memory, for which the \
             kernel has killed a process"
        }
    };
    format!(
        "{program} was killed: {reason} (give machines less with: container machine set \
         memory=SIZE)"
    )
}

/// Returns the number of processes that were killed in a cgroup and those below it.
fn cgroup_kills(directory: &Path) -> Option<u64> {
    let events = fs::read_to_string(directory.join("memory.events")).ok()?;
    parse(&events)
}

fn host_kills() -> Option<u64> {
    parse(&fs::read_to_string("/proc/vmstat").ok()?)
}

/// Returns the directory of a process's cgroup in the unified hierarchy, from
/// `/proc/PID/cgroup` (cgroups(7)).
fn cgroup_directory(cgroups: &str) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(CGROUPS).join(path))
}

/// Returns whether all processes of a cgroup are of this process's session. A scope of the
/// machine's has no others.
fn is_own(directory: &Path) -> bool {
    let Ok(processes) = fs::read_to_string(directory.join("cgroup.procs")) else {
        return false;
    };
    let session = getsid(None).ok();
    // Those of another PID namespace have number 0, which would stand for this process.
    let is_ours = |line: &str| match line.parse() {
        Ok(0) | Err(_) => false,
        Ok(pid) => session.is_some() && getsid(Some(Pid::from_raw(pid))).ok() == session,
    };
    processes.lines().all(is_ours)
}

/// Parses `oom_kill` of `/proc/vmstat` (proc_vmstat(5)) and of `memory.events`.
fn parse(statistics: &str) -> Option<u64> {
    let number = statistics
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    number.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        process::{Command, Stdio, id},
    };

    use super::*;

    #[test]
    fn kills_of_the_host_are_no_certain_reason() {
        let evidence = |before, now| host_evidence(parse(before), parse(now));
        let before = "oom_kill_x 9\noom_kill 3\nnr_free 1\n";
        assert_eq!(evidence(before, "oom_kill 3\n"), None);
        assert_eq!(evidence(before, "oom_kill 4\n"), Some(Evidence::Probable));
        assert_eq!(evidence(before, ""), None);
        assert_eq!(evidence("", "oom_kill 4\n"), None);
    }

    #[test]
    fn kills_of_the_cgroup_count_instead_of_those_of_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let write = |events| fs::write(directory.path().join("memory.events"), events).unwrap();
        write("max 7\noom 2\noom_kill 1\noom_group_kill 0\n");
        let mut kills = OutOfMemoryKills {
            cgroup: CgroupKills::read(directory.path().to_owned()),
            // The number of the host has increased.
            host: Some(0),
        };
        assert_eq!(kills.explain("qemu"), None);
        write("max 9\noom 3\noom_kill 2\noom_group_kill 0\n");
        let explained = kills.explain("qemu").unwrap();
        assert!(
            explained.starts_with("qemu was killed: probably"),
            "{explained}"
        );
        kills.cgroup.as_mut().unwrap().is_own = true;
        let explained = kills.explain("qemu").unwrap();
        assert!(
            explained.starts_with("qemu was killed: the host"),
            "{explained}"
        );
    }

    #[test]
    fn cgroup_with_processes_of_other_sessions_is_not_own() {
        let directory = tempfile::tempdir().unwrap();
        let mut other = Command::new("setsid")
            .args(["sh", "-c", "echo; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut started = [0];
        let output = other.stdout.as_mut().unwrap();
        output.read_exact(&mut started).unwrap();
        let write = |processes| {
            fs::write(directory.path().join("cgroup.procs"), processes).unwrap();
            is_own(directory.path())
        };
        assert!(write(format!("{}\n", id())));
        assert!(!write(format!("{}\n0\n", id())));
        assert!(!write(format!("{}\n{}\n", id(), other.id())));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn unified_hierarchy_is_found() {
        let hybrid = "4:memory:/user.slice\n1:name=systemd:/x\n0::/machine.slice/a.scope\n";
        let expected = PathBuf::from("/sys/fs/cgroup/machine.slice/a.scope");
        assert_eq!(cgroup_directory(hybrid), Some(expected));
        assert_eq!(cgroup_directory("4:memory:/user.slice\n"), None);
    }
}
