//! The process tree of the machine, as the agent sees it.

use std::{fs, path::PathBuf};

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
