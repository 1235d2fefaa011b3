//! File systems that the host mounts and unmounts below the shared directory.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// The mounts below a directory.
#[derive(Debug)]
pub(crate) struct Mounts {
    /// `/proc/self/mountinfo`, see proc_pid_mountinfo(5).
    table: File,
    changes: Epoll,
    /// The directory's path, with a slash at its end.
    prefix: Vec<u8>,
    /// Lines of the table.
    below: BTreeSet<Vec<u8>>,
}

impl Mounts {
    /// Reads the mounts below a directory. Must be called before the files are restricted that can
    /// be opened.
    pub(crate) fn new(directory: &str) -> io::Result<Mounts> {
        let mut prefix = fs::canonicalize(directory)?.into_os_string();
        if prefix != "/" {
            prefix.push("/");
        }
        let table = File::open("/proc/self/mountinfo")?;
        let changes = Epoll::new()?;
        let event = EpollEvent::new(EventSet::PRIORITY | EventSet::EDGE_TRIGGERED, 0);
        changes.ctl(ControlOperation::Add, table.as_raw_fd(), event)?;
        let mut mounts = Mounts {
            table,
            changes,
            prefix: prefix.as_bytes().to_owned(),
            below: BTreeSet::new(),
        };
        mounts.read()?;
        Ok(mounts)
    }

    /// Waits until they have changed.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default()];
        while !self.read()? {
            match self.changes.wait(-1, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                waited => drop(waited?),
            }
        }
        Ok(())
    }

    /// Reads the mounts. Returns whether they have changed.
    fn read(&mut self) -> io::Result<bool> {
        let mut table = Vec::new();
        self.table.rewind()?;
        self.table.read_to_end(&mut table)?;
        let lines = table.split(|byte| *byte == b'\n');
        let below: BTreeSet<Vec<u8>> = lines
            .filter(|line| mount_point(line).starts_with(&self.prefix))
            .map(<[u8]>::to_owned)
            .collect();
        let has_changed = below != self.below;
        self.below = below;
        Ok(has_changed)
    }
}

/// Returns the mount point in a line of the table.
fn mount_point(line: &[u8]) -> Vec<u8> {
    let field = line.split(|byte| *byte == b' ').nth(4).unwrap_or_default();
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            // Space, tab, newline and backslash are written in octal.
            (
                b'\\',
                [
                    high @ b'0'..=b'3',
                    middle @ b'0'..=b'7',
                    low @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                path.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
                rest = after;
            }
            _ => path.push(byte),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let line = br"36 35 98:0 / /home/a\040b\134c\x rw - ext4 /dev/a rw";
        assert_eq!(mount_point(line), br"/home/a b\c\x");
        assert_eq!(mount_point(b""), b"");
        assert_eq!(mount_point(b"1 2 3"), b"");
    }

    #[test]
    fn mounts_of_other_directories_are_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let mut mounts = Mounts::new(directory.path().to_str().unwrap()).unwrap();
        assert!(mounts.below.is_empty());
        assert!(!mounts.read().unwrap());
        let mut all = Mounts::new("/").unwrap();
        assert!(!all.below.is_empty());
        all.below.clear();
        all.wait().unwrap();
        assert!(!all.below.is_empty());
    }
}
