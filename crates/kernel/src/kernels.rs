//! The kernels of an installation and of its user.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process,
};

use crate::{
    metadata::{KernelMetadata, VMLINUX},
    name::{DEFAULT, KernelName},
    prepare::{PrepareError, install},
};

/// Names of the kernels that come with the program, the preferred one first.
const SHIPPED: [&str; 2] = ["container", "debian"];

/// A kernel in the installation or in the user's data directory, prepared for fast boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel's name.
    pub name: KernelName,
    /// Path of the `vmlinux`.
    pub image: PathBuf,
    /// Release, source and features.
    pub metadata: KernelMetadata,
    /// Whether the kernel came with the program.
    pub is_shipped: bool,
}

/// Error of listing or changing kernels.
#[derive(Debug, thiserror::Error)]
pub enum KernelsError {
    /// No kernel has this name.
    #[error("kernel {0:?} not found (list kernels with: container system kernel ls)")]
    NotFound(KernelName),
    /// Another kernel has this name.
    #[error(
        "kernel {0:?} already exists: choose it (container system kernel set {0}), give the new one another --name, or remove it first (container system kernel rm {0})"
    )]
    Exists(KernelName),
    /// A kernel that came with the program was to be removed.
    #[error("cannot remove kernel {0:?}: it came with the program")]
    Shipped(KernelName),
    /// Neither the installation nor the user has a kernel.
    #[error(
        "no kernel found in {}: run `make build` in a checkout, or `make install`",
        .0.iter().map(|directory| directory.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    None(Vec<PathBuf>),
    /// The kernel to be added cannot be used.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The files of the kernels cannot be read or written.
    #[error("cannot {action} {path}: {cause}", path = .path.display())]
    Files {
        /// Attempted operation, an infinitive.
        action: &'static str,
        /// Directory of the user's kernels.
        path: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
}

/// The kernels of an installation and those that its user has added. Every change is one step, so
/// nothing needs to be locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernels {
    shipped: Vec<PathBuf>,
    own: PathBuf,
}

impl Kernels {
    /// Uses these directories. The first directory in `shipped` that has a kernel wins; the user's
    /// kernels are in `own`, which need not exist.
    pub fn new(shipped: Vec<PathBuf>, own: PathBuf) -> Kernels {
        Kernels { shipped, own }
    }

    /// Uses the kernels of the running program's installation, and the user's in `own`. They are in
    /// `../lib/container` beside an installed program, or `../guest` beside one in a checkout.
    ///
    /// # Errors
    /// If the path of the running program cannot be determined.
    pub fn from_installation(own: PathBuf) -> io::Result<Kernels> {
        let program = env::current_exe()?;
        let directory = program.parent().unwrap_or(Path::new("/"));
        let shipped = ["../lib/container/kernels", "../guest/kernels"];
        let shipped = shipped.map(|relative| directory.join(relative));
        Ok(Kernels::new(shipped.into(), own))
    }

    /// Returns all kernels: those that came with the program, then the others by name.
    ///
    /// # Errors
    /// If the directory of the user's kernels cannot be read.
    pub fn all(&self) -> Result<Vec<Kernel>, KernelsError> {
        let shipped = SHIPPED.iter().filter_map(|name| self.shipped(name));
        let mut all: Vec<Kernel> = shipped.collect();
        let mut own = Vec::new();
        match fs::read_dir(&self.own) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.files_error("read")(error)),
            Ok(entries) => {
                let names = entries
                    .flatten()
                    .filter_map(|entry| entry.file_name().into_string().ok());
                own.extend(names.filter_map(|name| self.own(&name.parse().ok()?)));
            }
        }
        own.sort_by(|one, other| one.name.cmp(&other.name));
        all.extend(own);
        Ok(all)
    }

    fn shipped(&self, name: &str) -> Option<Kernel> {
        self.shipped.iter().find_map(|directory| {
            read_kernel(KernelName::shipped(name), &directory.join(name), true)
        })
    }

    fn own(&self, name: &KernelName) -> Option<Kernel> {
        read_kernel(name.clone(), &self.own.join(name.as_str()), false)
    }

    /// Returns the kernel with this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, name: &KernelName) -> Result<Kernel, KernelsError> {
        let kernel = self.shipped(name.as_str()).or_else(|| self.own(name));
        kernel.ok_or_else(|| KernelsError::NotFound(name.clone()))
    }

    /// Checks that no kernel has this name.
    ///
    /// # Errors
    /// If one has.
    pub fn check_unused(&self, name: &KernelName) -> Result<(), KernelsError> {
        if self.get(name).is_ok() {
            return Err(KernelsError::Exists(name.clone()));
        }
        Ok(())
    }

    /// Returns the kernel that machines boot by default: the chosen one, or else the preferred one
    /// that came with the program.
    ///
    /// # Errors
    /// If there is none at all.
    pub fn default_kernel(&self) -> Result<Kernel, KernelsError> {
        let chosen = fs::read_to_string(self.own.join(DEFAULT)).ok();
        let chosen = chosen.and_then(|name| name.trim().parse().ok());
        if let Some(kernel) = chosen.and_then(|name| self.get(&name).ok()) {
            return Ok(kernel);
        }
        SHIPPED
            .iter()
            .find_map(|name| self.shipped(name))
            .ok_or_else(|| KernelsError::None(self.shipped.clone()))
    }

    /// Makes a kernel the default from the machines' next start on.
    ///
    /// # Errors
    /// If there is none with this name, or the choice cannot be stored.
    pub fn set_default(&self, name: &KernelName) -> Result<Kernel, KernelsError> {
        let kernel = self.get(name)?;
        let failed = self.files_error("write into");
        fs::create_dir_all(&self.own).map_err(&failed)?;
        let new = tempfile::NamedTempFile::new_in(&self.own).map_err(&failed)?;
        fs::write(new.path(), name.as_str()).map_err(&failed)?;
        // Before the rename: otherwise the file could be empty after a crash of the host.
        new.as_file().sync_all().map_err(&failed)?;
        let persisted = new.persist(self.own.join(DEFAULT));
        persisted.map_err(|error| failed(error.error))?;
        self.sync().map_err(&failed)?;
        Ok(kernel)
    }

    /// Prepares and adds a kernel. A failure or a crash, also of the host, leaves no kernel with
    /// this name.
    ///
    /// # Errors
    /// If the image cannot be used, the name is in use, or the files cannot be written.
    pub fn add(
        &self,
        name: &KernelName,
        image: &Path,
        source: String,
    ) -> Result<Kernel, KernelsError> {
        self.check_unused(name)?;
        let failed = self.files_error("write into");
        fs::create_dir_all(&self.own).map_err(&failed)?;
        // The directory's name begins with a dot, which no kernel's does.
        let scratch = tempfile::tempdir_in(&self.own).map_err(&failed)?;
        install(image, source, scratch.path())?;
        fs::rename(scratch.path(), self.own.join(name.as_str())).map_err(&failed)?;
        self.sync().map_err(&failed)?;
        self.get(name)
    }

    /// Removes a kernel that was added. Running machines are not affected.
    ///
    /// # Errors
    /// If there is none with this name, it came with the program, or the files cannot be removed.
    pub fn remove(&self, name: &KernelName) -> Result<(), KernelsError> {
        if self.get(name)?.is_shipped {
            return Err(KernelsError::Shipped(name.clone()));
        }
        let failed = self.files_error("remove from");
        // The kernel disappears in one step, which needs no disk space; its files are deleted
        // afterwards.
        let hidden = self.own.join(format!(".removed-{name}-{}", process::id()));
        fs::rename(self.own.join(name.as_str()), &hidden).map_err(&failed)?;
        fs::remove_dir_all(&hidden).map_err(&failed)
    }

    /// Returns after the names of the user's kernels are on the disk.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.own)?.sync_all()
    }

    fn files_error(&self, action: &'static str) -> impl Fn(io::Error) -> KernelsError {
        let path = self.own.clone();
        move |cause| KernelsError::Files {
            action,
            path: path.clone(),
            cause,
        }
    }
}

/// Reads a prepared kernel; `None` unless the directory has one.
fn read_kernel(name: KernelName, directory: &Path, is_shipped: bool) -> Option<Kernel> {
    let image = directory.join(VMLINUX);
    Some(Kernel {
        name,
        metadata: KernelMetadata::read(&image)?,
        image,
        is_shipped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::elf;

    #[test]
    fn kernels_are_added_chosen_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let shipped = directory.path().join("shipped");
        let kernels = Kernels::new(vec![shipped.clone()], directory.path().join("own"));
        assert!(matches!(
            kernels.default_kernel(),
            Err(KernelsError::None(_))
        ));
        let image = directory.path().join("image");
        fs::write(&image, elf(None, true)).unwrap();
        let debian = shipped.join("debian");
        fs::create_dir_all(&debian).unwrap();
        install(&image, "a package".to_owned(), &debian).unwrap();
        let name = |word: &str| word.parse::<KernelName>().unwrap();
        let default = || kernels.default_kernel().unwrap().name.to_string();
        assert_eq!(default(), "debian");

        kernels
            .add(&name("mine-1.0"), &image, "a file".to_owned())
            .unwrap();
        assert_eq!(default(), "debian");
        kernels.set_default(&name("mine-1.0")).unwrap();
        assert_eq!(default(), "mine-1.0");
        let listed: Vec<String> = kernels
            .all()
            .unwrap()
            .iter()
            .map(|it| it.name.to_string())
            .collect();
        assert_eq!(listed, ["debian", "mine-1.0"]);
        let again = kernels.add(&name("mine-1.0"), &image, String::new());
        assert!(matches!(again, Err(KernelsError::Exists(_))));
        assert!(matches!(
            kernels.remove(&name("debian")),
            Err(KernelsError::Shipped(_))
        ));
        kernels.remove(&name("mine-1.0")).unwrap();
        assert_eq!(default(), "debian");
        assert!(matches!(
            kernels.set_default(&name("none")),
            Err(KernelsError::NotFound(_))
        ));

        // A failure leaves nothing but the file with the default.
        fs::write(&image, "no kernel").unwrap();
        assert!(kernels.add(&name("broken"), &image, String::new()).is_err());
        let left: Vec<_> = fs::read_dir(directory.path().join("own"))
            .unwrap()
            .flatten()
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
        for word in ["", "default", ".x", "a/b", "-a"] {
            assert!(word.parse::<KernelName>().is_err(), "{word}");
        }
    }
}
