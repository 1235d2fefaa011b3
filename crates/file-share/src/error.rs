//! Errors that the guest's kernel knows.

use std::io;

/// The error on which the guest's kernel looks the path up again.
pub(crate) fn stale_handle() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}

/// The error of a file that the guest does not have.
pub(crate) fn bad_handle() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}
