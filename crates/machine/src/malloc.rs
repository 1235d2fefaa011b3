//! Settings of glibc's malloc for the two long-lived processes.
//!
//! By default malloc raises its threshold for separately mapped blocks to the size of the largest
//! block that was freed (mallopt(3), `M_MMAP_THRESHOLD`). Later blocks of that size come from the
//! heap, and up to 64 MiB per thread are not returned to the system. A threshold set by the
//! environment is fixed: larger blocks are mapped, and unmapped when they are freed.
//!
//! glibc reads these variables when a process starts, so the parent process sets them.

/// Environment of the service. It unpacks images through large buffers and is idle afterwards. A
/// lower threshold makes pulls slower.
pub const SERVICE_MALLOC: [(&str, &str); 2] = [
    ("MALLOC_MMAP_THRESHOLD_", "1048576"),
    ("MALLOC_TRIM_THRESHOLD_", "1048576"),
];

/// Environment of a machine's runtime. Its largest blocks are the buffers of single connections, so
/// its threshold is malloc's initial value of 128 KiB.
pub const RUNTIME_MALLOC: [(&str, &str); 1] = [("MALLOC_MMAP_THRESHOLD_", "131072")];
