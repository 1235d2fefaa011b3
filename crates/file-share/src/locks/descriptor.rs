//! Locks of the host's files.

use std::{fs::File, io, os::fd::AsRawFd};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_getfl, flock, open};

use super::request::{ALL_BYTES, Access, ByteRange, Conflict};

/// Whether to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    Fail,
}

/// Locks bytes for the open file description `file`, or unlocks them. Fails with `EAGAIN` if
/// another lock prevents it.
pub(crate) fn lock_bytes(
    file: &File,
    range: ByteRange,
    access: Option<Access>,
    patience: Patience,
) -> io::Result<()> {
    let lock = range.to_fcntl(access);
    let request = match patience {
        Patience::Wait => FcntlArg::F_OFD_SETLKW(&lock),
        Patience::Fail => FcntlArg::F_OFD_SETLK(&lock),
    };
    match fcntl(file, request) {
        Ok(_) => Ok(()),
        // POSIX allows both.
        Err(nix::Error::EACCES) => Err(would_block()),
        Err(error) => Err(error.into()),
    }
}

/// Unlocks all bytes. Fails only if the file system does, which has no locks then.
pub(crate) fn unlock_all(file: &File) {
    if let Err(error) = lock_bytes(file, ALL_BYTES, None, Patience::Fail) {
        log::warn!("cannot unlock a file: {error}");
    }
}

/// Returns a lock that prevents locking bytes for the open file description `file`.
pub(crate) fn find_conflict(
    file: &File,
    range: ByteRange,
    access: Access,
) -> io::Result<Option<Conflict>> {
    let mut lock = range.to_fcntl(Some(access));
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(Conflict::from_fcntl(&lock))
}

/// Locks the whole file for the open file description `file`, or unlocks it (flock(2)).
pub(crate) fn lock_file(file: &File, access: Option<Access>, patience: Patience) -> io::Result<()> {
    let operation = match (access, patience) {
        (None, _) => FlockOperation::NonBlockingUnlock,
        (Some(Access::Shared), Patience::Wait) => FlockOperation::LockShared,
        (Some(Access::Shared), Patience::Fail) => FlockOperation::NonBlockingLockShared,
        (Some(Access::Exclusive), Patience::Wait) => FlockOperation::LockExclusive,
        (Some(Access::Exclusive), Patience::Fail) => FlockOperation::NonBlockingLockExclusive,
    };
    Ok(flock(file, operation)?)
}

/// Opens a file again, for a new open file description with the same access mode.
pub(crate) fn reopen(file: &File) -> io::Result<File> {
    let access_mode = fcntl_getfl(file)? & OFlags::RWMODE;
    reopen_with(file, access_mode)
}

/// Opens a file again with another access mode.
pub(crate) fn reopen_with(file: &File, access_mode: OFlags) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = access_mode | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    Ok(open(path, flags, Mode::empty())?.into())
}

/// Returns whether locks of this access can be set on bytes of the file.
pub(crate) fn permits(file: &File, access: Access) -> bool {
    let Ok(flags) = fcntl_getfl(file) else {
        return false;
    };
    let mode = flags & OFlags::RWMODE;
    match access {
        Access::Shared => mode != OFlags::WRONLY,
        Access::Exclusive => mode != OFlags::RDONLY,
    }
}

/// The error of a lock that cannot be had at once.
pub(crate) fn would_block() -> io::Error {
    io::Error::from_raw_os_error(libc::EAGAIN)
}

/// The error of a lock that cannot be had at all.
pub(crate) fn no_locks() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOLCK)
}
