//! The files that a guest boots with, found beside the program.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// What boots: a kernel, and the archives its initial RAM file system is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFiles {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The archive that holds the agent.
    pub agent: PathBuf,
    /// The archive that holds the kernel's modules, where it needs any.
    pub modules: Option<PathBuf>,
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
    /// A kernel that was named cannot be used.
    #[error("the kernel {path} cannot be used: {reason}")]
    Kernel {
        /// The kernel.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The program's own place is unknown.
    #[error("finding the program's own directory: {0}")]
    Program(#[source] io::Error),
}

impl GuestFiles {
    /// Finds the files of this installation: `../lib/container` beside an installed program,
    /// `../guest` beside one that was built in a checkout. `kernel` takes the default one's
    /// place.
    pub fn find(kernel: Option<&Path>) -> Result<GuestFiles, GuestFilesError> {
        let program = env::current_exe().map_err(GuestFilesError::Program)?;
        let directory = program.parent().unwrap_or(Path::new("/"));
        let places = ["../lib/container", "../guest"].map(|place| directory.join(place));
        Self::find_in(&places, kernel)
    }

    fn find_in(places: &[PathBuf], kernel: Option<&Path>) -> Result<GuestFiles, GuestFilesError> {
        let find = |name: &'static str| {
            let files = places.iter().map(|place| place.join(name));
            files
                .into_iter()
                .find(|file| file.is_file())
                .ok_or_else(|| GuestFilesError::Missing {
                    file: name,
                    places: places.to_vec(),
                })
        };
        let agent = find("initramfs.cpio")?;
        match kernel {
            Some(kernel) => Ok(GuestFiles {
                kernel: check_kernel(kernel).map(|()| kernel.to_owned())?,
                agent,
                modules: None,
            }),
            None => Ok(GuestFiles {
                kernel: find("vmlinux")?,
                agent,
                modules: find("modules.cpio").ok(),
            }),
        }
    }

    /// Writes the initial RAM file system: the archives one behind the other, as the kernel
    /// takes them (Documentation/driver-api/early-userspace/buffer-format.rst).
    pub fn write_initramfs(&self, to: &Path) -> io::Result<()> {
        let mut initramfs = File::create(to)?;
        for archive in std::iter::once(&self.agent).chain(&self.modules) {
            io::copy(&mut File::open(archive)?, &mut initramfs)?;
        }
        Ok(())
    }
}

/// Refuses a kernel that is not an absolute path to a readable, non-empty regular file.
pub fn check_kernel(path: &Path) -> Result<(), GuestFilesError> {
    let unusable = |reason: String| GuestFilesError::Kernel {
        path: path.to_owned(),
        reason,
    };
    if !path.is_absolute() {
        return Err(unusable("the path is not absolute".into()));
    }
    let about = fs::metadata(path).map_err(|error| unusable(error.to_string()))?;
    if !about.is_file() {
        return Err(unusable("it is not a regular file".into()));
    }
    if about.len() == 0 {
        return Err(unusable("it is empty".into()));
    }
    File::open(path)
        .map(drop)
        .map_err(|error| unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_has_a_file_is_used_and_a_missing_one_is_named() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let places = [first.path().to_owned(), second.path().to_owned()];
        fs::write(second.path().join("initramfs.cpio"), "agent").unwrap();
        let error = GuestFiles::find_in(&places, None).unwrap_err().to_string();
        assert!(
            error.contains("vmlinux") && error.contains("make build"),
            "{error}"
        );
        fs::write(second.path().join("vmlinux"), "kernel").unwrap();
        let files = GuestFiles::find_in(&places, None).unwrap();
        assert_eq!(files.modules, None);
        fs::write(first.path().join("modules.cpio"), "modules").unwrap();
        let files = GuestFiles::find_in(&places, None).unwrap();
        let initramfs = first.path().join("initramfs");
        files.write_initramfs(&initramfs).unwrap();
        assert_eq!(fs::read(initramfs).unwrap(), b"agentmodules");
    }

    #[test]
    fn a_named_kernel_must_be_a_file_with_something_in_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("initramfs.cpio"), "agent").unwrap();
        let places = [directory.path().to_owned()];
        let reason = |kernel: &Path| {
            GuestFiles::find_in(&places, Some(kernel))
                .unwrap_err()
                .to_string()
        };
        assert!(reason(directory.path()).contains("not a regular file"));
        assert!(reason(&directory.path().join("none")).contains("No such file"));
        let empty = directory.path().join("empty");
        fs::write(&empty, "").unwrap();
        assert!(reason(&empty).contains("empty"));
    }
}
