//! Requests to the file system with a low limit of descriptors: closed files are found again, and
//! never confused with others, whatever the host and the guest do to names meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod excluded;
mod guest;
mod guest_changes;
mod host_changes;
mod many;
