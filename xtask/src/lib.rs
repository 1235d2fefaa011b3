//! Development tasks that cargo has no command for.
//!
//! - [`guest`] builds the files that a guest boots with, under `target/guest`.
//! - [`images`] builds the test images, and [`registry`] serves them.
//! - [`ports`] chooses ports for servers.
//! - [`installation`] installs the built program.
//! - [`check`] checks the source text.
//! - [`demo`] and [`first_machine`] show the program to people.
//!
//! Guest files and images are made from Debian packages. They are built again only when their
//! inputs (`Inputs`) have changed, which include the text of the building module.
//!
//! The end-to-end tests and benchmarks use this crate as a library:
//!
//! ```no_run
//! use xtask::registry::{self, Registry};
//!
//! let registry = Registry::start(&registry::storage())?;
//! println!("{}/debian-systemd:12", registry.address());
//! # Ok::<(), anyhow::Error>(())
//! ```

pub mod check;
pub mod demo;
pub mod first_machine;
pub mod guest;
pub mod images;
pub mod installation;
pub mod ports;
pub mod progress;
pub mod registry;

mod command;
pub mod directories;
mod inputs;

pub use directories::checkout;
