//! Finds the programs that own sockets.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
};

/// Returns the name of the program that has each socket open, by the sockets' inodes. The name is
/// empty if no process has the socket open.
///
/// This reads the descriptors of all processes: there is no index from sockets to processes.
pub(super) fn names_by_inode(inodes: impl Iterator<Item = u32>) -> HashMap<u32, String> {
    let mut missing: BTreeSet<u32> = inodes.collect();
    let mut names = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        if missing.is_empty() {
            break;
        }
        let name = process.file_name();
        let is_process = name
            .as_encoded_bytes()
            .first()
            .is_some_and(u8::is_ascii_digit);
        if !is_process {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            if let Some(inode) = socket_inode(&target.to_string_lossy())
                && missing.remove(&inode)
            {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                names.insert(inode, name.trim_end().to_owned());
            }
        }
    }
    // An empty name keeps the caller from another search at every change.
    names.extend(missing.into_iter().map(|inode| (inode, String::new())));
    names
}

/// Parses the target of a descriptor's link in `/proc`: `socket:[inode]` (proc_pid_fd(5)).
fn socket_inode(target: &str) -> Option<u32> {
    let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::socket_inode;

    #[test]
    fn socket_inode_ignores_other_files() {
        assert_eq!(socket_inode("socket:[4026]"), Some(4026));
        assert_eq!(socket_inode("pipe:[4026]"), None);
        assert_eq!(socket_inode("/dev/null"), None);
    }
}
