//! Writes file systems and checks them with e2fsprogs: `e2fsck` must report no error, and `debugfs`
//! must read back what was written.
#![allow(clippy::unwrap_used, clippy::panic)]

mod entries;
mod growth;
mod image;
mod xattrs;
