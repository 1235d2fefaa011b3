//! A directory served to a virtual machine over vhost-user, however many files it holds.
//!
//! The `virtiofsd` crate does the passing through: names, attributes and contents, the guest's
//! users to the host's. [`Bounded`] sees to it that the files which the guest remembers may be
//! more than a process may hold open.

mod bounded;
mod file_system;
mod identity;
mod serve;
mod table;

pub use bounded::Bounded;
pub use serve::{ServeError, serve};
