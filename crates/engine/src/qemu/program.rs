//! Names of QEMU's programs, and where they are installed.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::interface::MissingProgram;

/// Program that runs x86_64 machines, with or without KVM.
pub(super) const SYSTEM: &str = "qemu-system-x86_64";

/// The program that creates and resizes disks.
pub(super) const IMAGE_TOOL: &str = "qemu-img";

/// Returns what changes when another version of the program is installed. Asking the program takes
/// longer than restoring a machine should.
pub(super) fn identity(program: &Path) -> String {
    let path = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    match fs::metadata(&path) {
        Ok(file) => format!(
            "{} {} {}.{:09} {}",
            path.display(),
            file.len(),
            file.mtime(),
            file.mtime_nsec(),
            file.ino()
        ),
        Err(_) => path.display().to_string(),
    }
}

/// Finds a program on the search path; a name with a slash is a path already.
pub(super) fn find(program: &str) -> Result<PathBuf, MissingProgram> {
    let missing = || MissingProgram {
        program: program.to_owned(),
    };
    if program.contains('/') {
        let path = PathBuf::from(program);
        return path.is_file().then_some(path).ok_or_else(missing);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(missing)
}
