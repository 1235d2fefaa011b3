//! A directory of the host served to a virtual machine (virtiofs over vhost-user).
//!
//! The `virtiofsd` crate passes requests through to the host's files and translates the guest's
//! users. It holds a descriptor for each file that the guest remembers; [`BoundedFileSystem`]
//! limits those, so a shared directory can hold any number of files.
//!
//! | module | responsibility |
//! |---|---|
//! | `serve` | serves a directory in a process of its own |
//! | `confinement` | restricts that process to the directory |
//! | `system_calls` | restricts its system calls |
//! | `backend` | takes the guest's requests from their queues, and returns the answers |
//! | `pool` | threads that carry them out |
//! | `requests` | passes each request to the file system |
//! | `file_system` | the guest's requests about files |
//! | `locking`, `locks` | the guest's requests about locks, and its locks |
//! | `listing` | lists directories without waiting for file systems that are mounted in them |
//! | `anonymous` | files without a name |
//! | `attributes` | keeps the guest from using old attributes and contents |
//! | `sqlite` | recognizes databases |
//! | `expiry` | has the guest expire names and attributes that the host has changed |
//! | `mounts` | notices file systems that the host mounts and unmounts |
//! | `events` | watches on the host what the guest watches |
//! | `replay`, `replaying` | lets the guest repeat the host's changes without changing anything |
//! | `agent` | the connection to the guest's agent |
//! | `control` | the connection to the runtime, which suspends the machine |
//! | `state`, `session` | saves and restores the share of a suspended machine |
//! | `bounded` | opens, closes and reopens files within the limit |
//! | `places` | directories that the guest does not see as they are |
//! | `table` | records of the files that the guest remembers |
//! | `identity` | recognizes a file of the host |
//!
//! # Example
//!
//! ```no_run
//! use std::{fs::File, os::unix::net::UnixListener};
//!
//! use container_file_share::{Connections, Exclusions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // QEMU connects to this socket (`-chardev socket`, `vhost-user-fs-pci`).
//! let connections = Connections {
//!     listener: UnixListener::bind("/tmp/share.sock")?,
//!     agent: None,
//!     runtime: None,
//! };
//! let home = File::open("/home/me")?;
//! container_file_share::serve(&home, false, &Exclusions::default(), connections)?;
//! # Ok(())
//! # }
//! ```

mod agent;
mod anonymous;
mod attributes;
mod backend;
mod bounded;
mod confinement;
mod control;
mod error;
mod events;
mod excluded;
mod expiry;
mod file_system;
mod identity;
mod listing;
mod local_answering;
mod local_answers;
mod locking;
mod locks;
mod mounts;
mod patience;
mod places;
mod pool;
mod replay;
mod replaying;
mod requests;
mod serve;
mod session;
mod sqlite;
mod state;
mod system_calls;
mod table;

pub use bounded::{BoundedFileSystem, InnerFileSystem, Restrictions};
pub use control::{ShareReply, ShareRequest};
pub use events::check_events;
pub use locks::Waiters;
pub use places::{Entries, Exclusions};
pub use serve::{Connections, ServeError, serve};
