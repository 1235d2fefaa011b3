//! Tells the kernel which programs of other architectures are run by what
//! (Documentation/admin-guide/binfmt-misc.rst).
//!
//! An interpreter rides in an archive of its own, with its registration beside it as `<name>.conf`.
//! The kernel opens it right away (flag F) and so finds it in every namespace: the image need not
//! have one. A machine of the host's own architecture has none.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};

const DIRECTORY: &str = "/interpreters";
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// Why programs of another architecture could not be run.
#[derive(Debug, thiserror::Error)]
pub enum InterpreterError {
    /// The kernel does not have it.
    #[error("the kernel cannot run programs of other architectures (CONFIG_BINFMT_MISC): {0}")]
    Kernel(#[source] nix::Error),
    /// An interpreter was refused.
    #[error("registering {path}: {source}")]
    Register {
        /// The registration.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Registers all interpreters that are there.
pub fn register_all() -> Result<(), InterpreterError> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Ok(());
    };
    let kind = Some("binfmt_misc");
    mount(kind, BINFMT_MISC, kind, MsFlags::empty(), None::<&str>)
        .map_err(InterpreterError::Kernel)?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            register(&path).map_err(|source| InterpreterError::Register { path, source })?;
        }
    }
    Ok(())
}

fn register(registration: &Path) -> io::Result<()> {
    let line = fs::read(registration)?;
    fs::write(Path::new(BINFMT_MISC).join("register"), line)
}
