//! The file system asked directly, with few descriptors: what was closed is found again, and
//! never taken for another file, whatever the host and the guest do to names meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod guest;
mod guest_changes;
mod host_changes;
mod many;
