//! File descriptors that the service must not inherit.
#![allow(unsafe_code)]

/// Sets close-on-exec on all descriptors but the standard streams.
///
/// A script may have started this process with an open lock or pipe. The service would inherit it,
/// and hold it for as long as it runs.
pub(crate) fn close_on_exec() {
    #[cfg(target_os = "linux")]
    // SAFETY: no descriptor is closed, and nothing in this process relies on one being inherited. A
    // kernel before 5.11 does not know the flag and refuses the call, which leaves the descriptors
    // inheritable.
    unsafe {
        libc::close_range(
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
        );
    }
}
