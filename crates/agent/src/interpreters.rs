//! Registers interpreters for programs of other architectures
//! (Documentation/admin-guide/binfmt-misc.rst).
//!
//! An interpreter is in a cpio archive of its own, together with its registration `<name>.conf`.
//! The kernel opens the interpreter at its registration (flag F), so it works in every mount
//! namespace and the image does not need one. A machine of the host's architecture has no such
//! archive.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};

const DIRECTORY: &str = "/interpreters";
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// Error of registering an interpreter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InterpreterError {
    /// `binfmt_misc` could not be mounted.
    #[error(
        "the kernel cannot run programs of other architectures (it needs CONFIG_BINFMT_MISC): {0}"
    )]
    Mount(nix::Error),
    /// The kernel refused a registration.
    #[error("cannot register the interpreter {path}: {cause}")]
    Register {
        /// Path of the registration.
        path: PathBuf,
        /// Error of reading it, or the kernel's.
        cause: io::Error,
    },
}

/// Registers every interpreter of the initramfs.
pub(crate) fn register_all() -> Result<(), InterpreterError> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Ok(());
    };
    let kind = Some("binfmt_misc");
    mount(kind, BINFMT_MISC, kind, MsFlags::empty(), None::<&str>)
        .map_err(InterpreterError::Mount)?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            register(&path).map_err(|cause| InterpreterError::Register { path, cause })?;
        }
    }
    Ok(())
}

fn register(registration: &Path) -> io::Result<()> {
    let line = fs::read(registration)?;
    fs::write(Path::new(BINFMT_MISC).join("register"), line)
}
