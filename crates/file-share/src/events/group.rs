//! The fanotify group of a share.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::AT_FDCWD,
    sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags},
};
use rustix::event::{PollFd, PollFlags, poll};

/// Events of files, also of those in a watched directory.
const FILE_EVENTS: MaskFlags = MaskFlags::FAN_MODIFY
    .union(MaskFlags::FAN_ATTRIB)
    .union(MaskFlags::FAN_CLOSE_WRITE)
    .union(MaskFlags::FAN_DELETE_SELF)
    .union(MaskFlags::FAN_MOVE_SELF);

/// Events of directories, except for renames.
const DIRECTORY_EVENTS: MaskFlags = FILE_EVENTS
    .union(MaskFlags::FAN_CREATE)
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_ONDIR)
    .union(MaskFlags::FAN_EVENT_ON_CHILD);

/// Renames with both names (since Linux 5.17), and as two events.
const RENAMES: MaskFlags = MaskFlags::FAN_RENAME;
const SEPARATE_RENAMES: MaskFlags = MaskFlags::FAN_MOVED_FROM.union(MaskFlags::FAN_MOVED_TO);

/// The marks of files that are watched, and their events.
#[derive(Debug)]
pub(crate) struct Group {
    fanotify: Fanotify,
    /// Whether the kernel reports both names of a rename in one event.
    has_renames: AtomicBool,
}

impl Group {
    /// Creates a group. Must be called before the system calls are restricted.
    ///
    /// # Errors
    /// If the kernel does not support such a group for this user (before Linux 5.13).
    pub(crate) fn new() -> io::Result<Group> {
        let information = libc::FAN_REPORT_FID | libc::FAN_REPORT_DIR_FID | libc::FAN_REPORT_NAME;
        let flags = InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_CLASS_NOTIF
            | InitFlags::from_bits_retain(information);
        Ok(Group {
            fanotify: Fanotify::init(flags, EventFFlags::O_RDONLY)?,
            has_renames: AtomicBool::new(true),
        })
    }

    /// Begins to watch a file or directory.
    pub(crate) fn watch(&self, file: &File, is_directory: bool) -> io::Result<()> {
        let result = self.mark(MarkFlags::FAN_MARK_ADD, file, is_directory);
        if result != Err(Errno::EINVAL) || !self.has_renames.swap(false, Ordering::Relaxed) {
            return Ok(result?);
        }
        Ok(self.mark(MarkFlags::FAN_MARK_ADD, file, is_directory)?)
    }

    /// Ceases to watch a file or directory.
    pub(crate) fn unwatch(&self, file: &File, is_directory: bool) -> io::Result<()> {
        Ok(self.mark(MarkFlags::FAN_MARK_REMOVE, file, is_directory)?)
    }

    /// Ceases to watch all files.
    pub(crate) fn clear(&self) {
        let flags = MarkFlags::FAN_MARK_FLUSH;
        let cleared = self
            .fanotify
            .mark(flags, MaskFlags::empty(), AT_FDCWD, None::<&Path>);
        if let Err(error) = cleared {
            log::warn!("cannot remove the marks of files: {error}");
        }
    }

    fn mark(&self, flags: MarkFlags, file: &File, is_directory: bool) -> Result<(), Errno> {
        let mask = match (is_directory, self.has_renames.load(Ordering::Relaxed)) {
            (false, _) => FILE_EVENTS,
            (true, true) => DIRECTORY_EVENTS | RENAMES,
            (true, false) => DIRECTORY_EVENTS | SEPARATE_RENAMES,
        };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.fanotify
            .mark(flags, mask, AT_FDCWD, Some(path.as_str()))
    }

    /// Waits until there are events.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let descriptor = self.fanotify.as_fd();
        loop {
            match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None) {
                Err(rustix::io::Errno::INTR) => {}
                waited => return waited.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Reads events. Returns their number of bytes in the buffer, which is 0 if there are none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(self.fanotify.as_fd(), buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            read => read.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
impl Group {
    /// Returns whether a file is watched (proc_pid_fdinfo(5)).
    pub(crate) fn has_marks(&self) -> bool {
        let descriptor = self.fanotify.as_fd().as_raw_fd();
        let information = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"));
        information.unwrap().contains("fanotify ino:")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::events::records::{EventFile, records};

    #[test]
    fn changes_in_a_watched_directory_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let opened = File::open(directory.path()).unwrap();
        let group = Group::new().unwrap();
        group.watch(&opened, true).unwrap();
        fs::write(directory.path().join("a"), "x").unwrap();
        fs::rename(directory.path().join("a"), directory.path().join("b")).unwrap();
        group.unwatch(&opened, true).unwrap();
        fs::write(directory.path().join("unwatched"), "x").unwrap();
        let mut buffer = vec![0; 4096];
        let length = group.read(&mut buffer).unwrap();
        let records = records(&buffer[..length]);
        let own_process = std::process::id().cast_signed();
        assert!(records.iter().all(|it| it.process == own_process));
        let entry =
            |name: &std::ffi::CStr| Some((EventFile::of(&opened).unwrap(), name.to_owned()));
        let has = |mask: u64| records.iter().filter(move |it| it.mask & mask != 0);
        assert!(has(libc::FAN_CREATE).all(|it| it.entry == entry(c"a")));
        assert_eq!(has(libc::FAN_CREATE).count(), 1);
        let touched = has(libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE)
            .next()
            .unwrap();
        assert_eq!(touched.entry, entry(c"a"));
        assert!(touched.file.is_some());
        let renamed = has(libc::FAN_RENAME).next().unwrap();
        assert_eq!(renamed.old_entry, entry(c"a"));
        assert_eq!(renamed.new_entry, entry(c"b"));
    }

    #[test]
    fn truncated_records_are_ignored() {
        assert_eq!(records(&[0; 40]), []);
        let mut record = [0_u8; 30];
        record[0] = 30;
        record[6] = 24;
        record[26] = 200;
        assert_eq!(records(&record), []);
        assert_eq!(records(&record[..20]), []);
    }
}
