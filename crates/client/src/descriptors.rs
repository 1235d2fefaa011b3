//! What a process that outlives this one must not inherit.
#![allow(unsafe_code)]

/// Keeps descriptors that this process was started with, a lock or a pipe of a script say, from
/// the processes that it starts: the service would hold them for as long as it lives.
pub fn close_on_exec() {
    #[cfg(target_os = "linux")]
    // SAFETY: no descriptor is closed, and nothing here relies on one being inherited; standard
    // streams are left alone. A kernel older than 5.11 refuses, which is no worse than before.
    unsafe {
        libc::close_range(
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
        );
    }
}
