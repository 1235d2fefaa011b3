//! A directory of the host served to a virtual machine (virtiofs over vhost-user).
//!
//! The `virtiofsd` crate passes requests through to the host's files and translates the guest's
//! users. It holds a descriptor for each file that the guest remembers; [`BoundedFileSystem`]
//! limits those, so a shared directory can hold any number of files.
//!
//! | module | responsibility |
//! |---|---|
//! | `serve` | serves a directory in a process of its own |
//! | `file_system` | the guest's requests |
//! | `bounded` | opens, closes and reopens files within the limit |
//! | `places` | directories that the guest does not see as they are |
//! | `table` | records of the files that the guest remembers |
//! | `identity` | recognizes a file of the host |
//!
//! # Example
//!
//! ```no_run
//! use std::os::unix::net::UnixListener;
//!
//! use container_file_share::Exclusions;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // QEMU connects to this socket (`-chardev socket`, `vhost-user-fs-pci`).
//! let listener = UnixListener::bind("/tmp/share.sock")?;
//! container_file_share::serve("/home/me", false, &Exclusions::default(), listener)?;
//! # Ok(())
//! # }
//! ```

mod bounded;
mod file_system;
mod identity;
mod places;
mod serve;
mod table;

pub use bounded::BoundedFileSystem;
pub use places::{Entries, Exclusions};
pub use serve::{ServeError, serve};
