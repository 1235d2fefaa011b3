//! The process tree of the machine, as the agent sees it.

use std::{fs, path::PathBuf};

use nix::libc::{SYS_clock_nanosleep, SYS_nanosleep};

/// Fields of `/proc/PID/stat`, counted from the one after the program's name (proc_pid_stat(5)).
const PARENT: usize = 1;
const PROCESS_GROUP: usize = 2;

/// Returns the children of a process.
pub(crate) fn children(parent: u32) -> impl Iterator<Item = u32> {
    all().filter(move |process| field(*process, PARENT) == Some(parent))
}

/// Returns the processes of a process group.
pub(crate) fn group(leader: u32) -> impl Iterator<Item = u32> {
    all().filter(move |process| field(*process, PROCESS_GROUP) == Some(leader))
}

/// Returns the processes in PID namespaces below the agent's, which are those of the machine.
/// Zombies are left out.
pub(crate) fn in_pid_namespaces() -> impl Iterator<Item = u32> {
    all().filter(|process| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let is_below = ids.is_some_and(|ids| ids.split_whitespace().count() > 1);
        is_below && !status.contains("\nState:\tZ")
    })
}

/// Returns whether a process sleeps for some time, and waits for nothing else (sleep(3);
/// proc_pid_syscall(5)).
pub(crate) fn is_in_sleep(process: u32) -> bool {
    let call = fs::read_to_string(format!("/proc/{process}/syscall")).unwrap_or_default();
    let number = call
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    [SYS_clock_nanosleep, SYS_nanosleep]
        .map(Some)
        .contains(&number)
}

/// Returns the pipes, sockets and terminals among a process' standard streams.
pub(crate) fn connected_streams(process: u32) -> Vec<PathBuf> {
    let streams = (0..3).filter_map(|number| {
        let link = format!("/proc/{process}/fd/{number}");
        fs::read_link(link).ok()
    });
    let is_connection = |stream: &PathBuf| {
        let name = stream.to_string_lossy();
        ["pipe:", "socket:", "/dev/pts/"]
            .iter()
            .any(|kind| name.starts_with(kind))
    };
    streams.filter(is_connection).collect()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn field(process: u32, number: usize) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field, the program's name in parentheses, may contain spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        thread::yield_now,
    };

    use super::*;

    #[test]
    fn only_a_process_in_sleep_sleeps() {
        for (program, sleeps) in [(["sleep", "100"], true), (["cat", "-"], false)] {
            let [name, argument] = program;
            let mut command = Command::new(name);
            let mut child = command.arg(argument).stdin(Stdio::piped()).spawn().unwrap();
            let is_blocked = || {
                let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
                let name = format!("Name:\t{name}\n");
                status.starts_with(&name) && status.contains("\nState:\tS")
            };
            while !is_blocked() {
                yield_now();
            }
            assert_eq!(is_in_sleep(child.id()), sleeps, "{name}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
