//! The checkout and its build directory.

use std::path::{Path, PathBuf};

/// Returns the root directory of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the build directory, Cargo's `target`.
pub fn target() -> PathBuf {
    checkout().join("target")
}
