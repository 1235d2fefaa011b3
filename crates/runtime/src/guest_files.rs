//! The files that a guest boots with, installed with the program.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// File name of the archive with the agent.
const AGENT: &str = "initramfs.cpio";

/// The archives that an initramfs is made of, kernel modules aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestFiles {
    /// The archive with the agent.
    pub agent: PathBuf,
    /// The archive with the interpreter of the machine's architecture; absent if the host's
    /// processor runs its programs.
    pub interpreter: Option<PathBuf>,
}

/// Error of preparing the guest's files.
#[derive(Debug, thiserror::Error)]
pub enum GuestFilesError {
    /// A file is in none of the directories.
    #[error(
        "guest file {file} not found in {} (run `make build` in a checkout, or `make install`)",
        directories.iter().map(|it| it.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    Missing {
        /// Name of the file.
        file: &'static str,
        /// The directories that were searched.
        directories: Vec<PathBuf>,
    },
    /// No interpreter for the architecture is installed.
    #[error(
        "architecture {architecture} is not supported here: this host can run programs for {}",
        .runnable.join(", ")
    )]
    Architecture {
        /// OCI name of the architecture.
        architecture: String,
        /// OCI names of the supported architectures.
        runnable: Vec<String>,
    },
    /// The program's own path is unknown.
    #[error("cannot determine the program's own path: {0}")]
    Program(io::Error),
}

impl GuestFiles {
    /// Finds the files of this installation for programs of `architecture`, an OCI name. They are
    /// in `../lib/container` relative to an installed program, and in `../guest` relative to one
    /// that was built in a checkout.
    pub(crate) fn find(architecture: &str) -> Result<GuestFiles, GuestFilesError> {
        Self::find_in(&directories()?, architecture)
    }

    fn find_in(directories: &[PathBuf], architecture: &str) -> Result<GuestFiles, GuestFilesError> {
        let interpreter = interpreter(directories, architecture)?;
        let mut agents = directories.iter().map(|it| it.join(AGENT));
        match agents.find(|file| file.is_file()) {
            Some(agent) => Ok(GuestFiles { agent, interpreter }),
            None => Err(GuestFilesError::Missing {
                file: AGENT,
                directories: directories.to_vec(),
            }),
        }
    }
}

/// Returns the directories in which this installation's files may be.
fn directories() -> Result<[PathBuf; 2], GuestFilesError> {
    let program = env::current_exe().map_err(GuestFilesError::Program)?;
    let directory = program.parent().unwrap_or(Path::new("/"));
    Ok(["../lib/container", "../guest"].map(|path| directory.join(path)))
}

/// Checks that machines can run programs of `architecture`, an OCI name.
///
/// # Errors
/// [`GuestFilesError::Architecture`] if they cannot.
pub fn check_architecture(architecture: &str) -> Result<(), GuestFilesError> {
    interpreter(&directories()?, architecture).map(drop)
}

/// Checks that the files of the guest are installed. Returns the archive with the agent.
///
/// # Errors
/// [`GuestFilesError::Missing`] if they are not.
pub fn check_guest_files() -> Result<PathBuf, GuestFilesError> {
    Ok(GuestFiles::find(native()[0])?.agent)
}

/// OCI names of the architectures that the host's processor runs itself.
const fn native() -> &'static [&'static str] {
    if cfg!(target_arch = "aarch64") {
        &["arm64"]
    } else {
        &["amd64", "386"]
    }
}

fn interpreter(
    directories: &[PathBuf],
    architecture: &str,
) -> Result<Option<PathBuf>, GuestFilesError> {
    if native().contains(&architecture) {
        return Ok(None);
    }
    let name = interpreter_file(architecture);
    let found = directories
        .iter()
        .map(|it| it.join(&name))
        .find(|file| file.is_file());
    match found {
        Some(file) => Ok(Some(file)),
        None => Err(GuestFilesError::Architecture {
            architecture: architecture.to_owned(),
            runnable: runnable(directories),
        }),
    }
}

fn interpreter_file(architecture: &str) -> String {
    format!("interpreter-{architecture}.cpio")
}

/// Returns the OCI names of all architectures that machines can run, sorted.
fn runnable(directories: &[PathBuf]) -> Vec<String> {
    let mut runnable: Vec<String> = native().iter().map(|name| (*name).to_owned()).collect();
    for entry in directories
        .iter()
        .flat_map(fs::read_dir)
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let architecture = name
            .to_str()
            .and_then(|name| name.strip_prefix("interpreter-")?.strip_suffix(".cpio"));
        runnable.extend(architecture.map(str::to_owned));
    }
    runnable.sort();
    runnable.dedup();
    runnable
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: &str = native()[0];

    #[test]
    fn programs_of_another_architecture_need_an_interpreter() {
        let directory = tempfile::tempdir().unwrap();
        let directories = [directory.path().to_owned()];
        for file in ["initramfs.cpio", "interpreter-m68k.cpio"] {
            fs::write(directory.path().join(file), file).unwrap();
        }
        let files = GuestFiles::find_in(&directories, "m68k").unwrap();
        let interpreter = directory.path().join("interpreter-m68k.cpio");
        assert_eq!(files.interpreter, Some(interpreter));
        let error = GuestFiles::find_in(&directories, "mips")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("architecture mips") && error.contains("m68k"),
            "{error}"
        );
        assert!(error.contains(NATIVE), "{error}");
    }

    #[test]
    fn the_first_directory_with_a_file_is_used_and_a_missing_file_is_named() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directories = [first.path().to_owned(), second.path().to_owned()];
        let error = GuestFiles::find_in(&directories, NATIVE).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("initramfs.cpio") && error.contains("make build"),
            "{error}"
        );
        fs::write(second.path().join("initramfs.cpio"), "agent").unwrap();
        let files = GuestFiles::find_in(&directories, NATIVE).unwrap();
        assert_eq!(files.agent, second.path().join("initramfs.cpio"));
    }
}
