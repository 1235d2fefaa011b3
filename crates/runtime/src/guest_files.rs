//! The files that a guest boots with, found beside the program.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// The archive that holds the agent.
const AGENT: &str = "initramfs.cpio";

/// What a kernel boots with: the archives that its initial RAM file system is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFiles {
    /// The archive that holds the agent.
    pub agent: PathBuf,
    /// The archive that holds what runs programs of the machine's architecture, where that is not
    /// the host's.
    pub interpreter: Option<PathBuf>,
}

/// Why they could not be found.
#[derive(Debug, thiserror::Error)]
pub enum GuestFilesError {
    /// They are in none of the places.
    #[error(
        "there is no guest {file} in {}: run `make build` in a checkout, or `make install`",
        places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    Missing {
        /// Which file.
        file: &'static str,
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },
    /// Nothing here runs programs of that architecture.
    #[error(
        "programs for {architecture} cannot be run here: this computer runs {}",
        .runnable.join(", ")
    )]
    Architecture {
        /// The architecture, in OCI's words.
        architecture: String,
        /// Those that can be.
        runnable: Vec<String>,
    },
    /// The program's own place is unknown.
    #[error("finding the program's own directory: {0}")]
    Program(#[source] io::Error),
}

impl GuestFiles {
    /// Finds the files of this installation: `../lib/container` beside an installed program,
    /// `../guest` beside one that was built in a checkout. The machine's programs are of this
    /// `architecture`, in OCI's words.
    pub fn find(architecture: &str) -> Result<GuestFiles, GuestFilesError> {
        Self::find_in(&places()?, architecture)
    }

    fn find_in(places: &[PathBuf], architecture: &str) -> Result<GuestFiles, GuestFilesError> {
        let interpreter = interpreter(places, architecture)?;
        let mut agents = places.iter().map(|place| place.join(AGENT));
        match agents.find(|file| file.is_file()) {
            Some(agent) => Ok(GuestFiles { agent, interpreter }),
            None => Err(GuestFilesError::Missing {
                file: AGENT,
                places: places.to_vec(),
            }),
        }
    }

    /// Writes the initial RAM file system, with the archive of the kernel's `modules` where it needs any:
    /// the archives one behind the other, as the kernel takes them
    /// (Documentation/driver-api/early-userspace/buffer-format.rst).
    pub fn write_initramfs(&self, modules: Option<&Path>, to: &Path) -> io::Result<()> {
        let mut initramfs = File::create(to)?;
        let more = modules.into_iter().chain(self.interpreter.as_deref());
        for archive in std::iter::once(self.agent.as_path()).chain(more) {
            io::copy(&mut File::open(archive)?, &mut initramfs)?;
        }
        Ok(())
    }
}

/// Where this installation's files may be.
fn places() -> Result<[PathBuf; 2], GuestFilesError> {
    let program = env::current_exe().map_err(GuestFilesError::Program)?;
    let directory = program.parent().unwrap_or(Path::new("/"));
    Ok(["../lib/container", "../guest"].map(|place| directory.join(place)))
}

/// Refuses an architecture, in OCI's words, whose programs no machine here can run.
pub fn check_architecture(architecture: &str) -> Result<(), GuestFilesError> {
    interpreter(&places()?, architecture).map(drop)
}

/// Architectures whose programs this host's processor runs itself.
const fn native() -> &'static [&'static str] {
    if cfg!(target_arch = "aarch64") {
        &["arm64"]
    } else {
        &["amd64", "386"]
    }
}

fn interpreter(places: &[PathBuf], architecture: &str) -> Result<Option<PathBuf>, GuestFilesError> {
    if native().contains(&architecture) {
        return Ok(None);
    }
    let name = interpreter_file(architecture);
    let found = places
        .iter()
        .map(|place| place.join(&name))
        .find(|file| file.is_file());
    match found {
        Some(file) => Ok(Some(file)),
        None => Err(GuestFilesError::Architecture {
            architecture: architecture.to_owned(),
            runnable: runnable(places),
        }),
    }
}

fn interpreter_file(architecture: &str) -> String {
    format!("interpreter-{architecture}.cpio")
}

/// All architectures whose programs can be run here.
fn runnable(places: &[PathBuf]) -> Vec<String> {
    let mut runnable: Vec<String> = native().iter().map(|word| (*word).to_owned()).collect();
    for entry in places.iter().flat_map(fs::read_dir).flatten().flatten() {
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
        let places = [directory.path().to_owned()];
        for file in ["initramfs.cpio", "interpreter-m68k.cpio"] {
            fs::write(directory.path().join(file), file).unwrap();
        }
        let files = GuestFiles::find_in(&places, "m68k").unwrap();
        let initramfs = directory.path().join("initramfs");
        files.write_initramfs(None, &initramfs).unwrap();
        let written = fs::read_to_string(initramfs).unwrap();
        assert_eq!(written, "initramfs.cpiointerpreter-m68k.cpio");
        let error = GuestFiles::find_in(&places, "mips")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("for mips") && error.contains("m68k"),
            "{error}"
        );
        assert!(error.contains(NATIVE), "{error}");
    }

    #[test]
    fn the_first_place_that_has_a_file_is_used_and_a_missing_one_is_named() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let places = [first.path().to_owned(), second.path().to_owned()];
        let error = GuestFiles::find_in(&places, NATIVE).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("initramfs.cpio") && error.contains("make build"),
            "{error}"
        );
        fs::write(second.path().join("initramfs.cpio"), "agent").unwrap();
        let files = GuestFiles::find_in(&places, NATIVE).unwrap();
        let modules = first.path().join("modules.cpio");
        fs::write(&modules, "modules").unwrap();
        let initramfs = first.path().join("initramfs");
        files.write_initramfs(Some(&modules), &initramfs).unwrap();
        assert_eq!(fs::read(initramfs).unwrap(), b"agentmodules");
    }
}
