//! Every file system that is written here, e2fsprogs find nothing to say of, and reads back as it
//! was written.
#![allow(clippy::unwrap_used, clippy::panic)]

mod entries;
mod growth;
mod image;
mod xattrs;
