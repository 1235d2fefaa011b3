//! One running machine: engine child, file share, guest channel, logs.
//!
//! A machine runs in a process of its own, the *runtime*, started by [`launch`] and found
//! again by [`Runtime::find`]. It owns everything that runs for the machine (the engine, the
//! process that serves the shared home) and takes them with it when it ends, in whatever way it
//! ends. In its runtime directory it holds:
//!
//! | file | is |
//! |---|---|
//! | `runtime.sock` | where clients reach the runtime ([`container_protocol::local`]) |
//! | `initramfs` | what the kernel boots with |
//! | `vmlinux`, `modules.cpio` | what was made of the kernel, where it was not made ready before; the former until the machine is up |
//!
//! A machine is running exactly when its runtime holds the lock in the machine's bundle, and whoever
//! wants something of it asks at the socket. No other word on disk says so, so no crash can leave a
//! wrong one behind. A socket that somebody removed, with a session's directory say, is made anew
//! within seconds.

mod boot;
mod changes;
mod clients;
mod console;
mod file_share;
mod guest_files;
mod handle;
mod launch;
mod lock;
mod log;
mod ports;
mod process;

pub use changes::{Changes, ChangesError, Stopper};
pub use container_network::Policy;
pub use file_share::file_share_main;
pub use guest_files::{GuestFiles, GuestFilesError, check_architecture};
pub use handle::{FindError, Runtime, RuntimeStatus, StopError};
pub use launch::{HomeShare, Launch, LaunchError, NetworkLaunch, Purpose, launch};
pub use process::runtime_main;

/// The argument with which the program is a machine's runtime.
pub const RUNTIME_ROLE: &str = "__runtime";

/// The argument with which the program serves a machine's shared home.
pub const FILE_SHARE_ROLE: &str = "__file-share";
