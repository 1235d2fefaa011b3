//! The guest's requests about locks.

use std::io;

use virtiofsd::fuse::{FileLock, LK_FLOCK, LkIn};

/// Last byte that a lock can cover (the kernel's `OFFSET_MAX`); a lock up to it has no end.
const LAST_OFFSET: u64 = i64::MAX as u64;

/// Access that a lock grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Shared,
    Exclusive,
}

/// A range of bytes. Both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteRange {
    pub first: u64,
    pub last: u64,
}

/// What is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The whole file, for an open file description: flock(2).
    File,
    /// Bytes, for a process or an open file description: fcntl(2).
    Bytes(ByteRange),
}

/// A request to lock or unlock, or to test a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockRequest {
    pub inode: u64,
    pub handle: u64,
    /// The guest's kernel derives it from the process's table of files, or from the open file
    /// description.
    pub owner: u64,
    pub scope: Scope,
    /// `None` unlocks.
    pub access: Option<Access>,
    /// Id of the process in the guest.
    pub process: u32,
}

impl LockRequest {
    /// Parses a request about the file `inode`. Fails with `EINVAL` if no kernel would send it.
    pub(crate) fn parse(inode: u64, request: &LkIn) -> io::Result<LockRequest> {
        let scope = if request.lk_flags & LK_FLOCK != 0 {
            Scope::File
        } else {
            Scope::Bytes(ByteRange::parse(&request.lk)?)
        };
        Ok(LockRequest {
            inode,
            handle: request.fh,
            owner: request.owner,
            scope,
            access: parse_access(request.lk.type_)?,
            process: request.lk.pid,
        })
    }
}

impl ByteRange {
    fn parse(lock: &FileLock) -> io::Result<ByteRange> {
        if lock.start > lock.end || lock.end > LAST_OFFSET {
            return Err(invalid());
        }
        Ok(ByteRange {
            first: lock.start,
            last: lock.end,
        })
    }

    /// Returns the range that fcntl(2) means by these. A `length` of 0 has no end.
    fn from_fcntl(start: i64, length: i64) -> Option<ByteRange> {
        let first = u64::try_from(start).ok()?;
        let last = match u64::try_from(length).ok()? {
            0 => LAST_OFFSET,
            length => first.checked_add(length - 1)?,
        };
        Some(ByteRange { first, last })
    }

    pub(crate) fn overlaps(&self, other: &ByteRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Returns the description for fcntl(2) of a lock on this range.
    pub(crate) fn to_fcntl(self, access: Option<Access>) -> libc::flock {
        let kind = match access {
            Some(Access::Shared) => libc::F_RDLCK,
            Some(Access::Exclusive) => libc::F_WRLCK,
            None => libc::F_UNLCK,
        };
        let length = match self.last {
            LAST_OFFSET => 0,
            last => last - self.first + 1,
        };
        libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            // Both are at most `LAST_OFFSET`.
            l_start: self.first as i64,
            l_len: length as i64,
            // Open file descriptions have none.
            l_pid: 0,
        }
    }
}

/// All bytes of a file.
pub(crate) const ALL_BYTES: ByteRange = ByteRange {
    first: 0,
    last: LAST_OFFSET,
};

/// A lock that prevents another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub range: ByteRange,
    pub access: Access,
    /// The process in the guest; 0 for a process of the host.
    pub process: u32,
}

impl Conflict {
    /// Reads what `F_OFD_GETLK` has returned. `None` if there is no conflict.
    pub(crate) fn from_fcntl(lock: &libc::flock) -> Option<Conflict> {
        let access = parse_access(lock.l_type as u32).ok()??;
        Some(Conflict {
            range: ByteRange::from_fcntl(lock.l_start, lock.l_len)?,
            access,
            process: 0,
        })
    }
}

/// Returns the answer to a test of `request`.
pub(crate) fn answer(conflict: Option<Conflict>) -> FileLock {
    match conflict {
        None => FileLock {
            type_: libc::F_UNLCK as u32,
            ..FileLock::default()
        },
        Some(conflict) => FileLock {
            start: conflict.range.first,
            end: conflict.range.last,
            type_: match conflict.access {
                Access::Shared => libc::F_RDLCK as u32,
                Access::Exclusive => libc::F_WRLCK as u32,
            },
            pid: conflict.process,
        },
    }
}

fn parse_access(kind: u32) -> io::Result<Option<Access>> {
    match i32::try_from(kind) {
        Ok(libc::F_RDLCK) => Ok(Some(Access::Shared)),
        Ok(libc::F_WRLCK) => Ok(Some(Access::Exclusive)),
        Ok(libc::F_UNLCK) => Ok(None),
        _ => Err(invalid()),
    }
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(start: u64, end: u64, type_: u32) -> FileLock {
        FileLock {
            start,
            end,
            type_,
            pid: 7,
        }
    }

    #[test]
    fn requests_that_no_kernel_sends_are_refused() {
        for invalid in [
            lock(2, 1, 0),
            lock(0, LAST_OFFSET + 1, 0),
            lock(0, 1, 3),
            lock(0, 1, u32::MAX),
        ] {
            let request = LkIn {
                lk: invalid,
                ..LkIn::default()
            };
            assert!(LockRequest::parse(1, &request).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn ranges_survive_the_way_to_fcntl_and_back() {
        for (first, last) in [(0, 0), (5, 9), (3, LAST_OFFSET), (0, LAST_OFFSET)] {
            let range = ByteRange { first, last };
            let lock = range.to_fcntl(Some(Access::Exclusive));
            let read = Conflict::from_fcntl(&lock).unwrap();
            assert_eq!((read.range, read.access), (range, Access::Exclusive));
        }
        let unlocked = ALL_BYTES.to_fcntl(None);
        assert_eq!(Conflict::from_fcntl(&unlocked), None);
    }
}
