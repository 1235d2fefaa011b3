//! What the project builds besides its own crates: the files that a guest boots with, and the
//! images that the tests use.
//!
//! Everything lies below `target/`, is made of Debian packages, and is made again only when what
//! it is made from has changed.

pub mod demo;
pub mod first_machine;
pub mod guest;
pub mod images;
pub mod installation;
pub mod registry;

mod command;
mod recipe;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The directory that everything is built in.
pub fn target() -> PathBuf {
    checkout().join("target")
}

/// Tells what is being done.
pub fn say(message: &str) {
    // With standard error gone there is nobody to tell.
    let _ = writeln!(io::stderr(), "{message}");
}
