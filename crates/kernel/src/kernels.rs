//! The kernels that there are.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::prepare::{self, About, PrepareError, VMLINUX};

/// What kernels that came with the program are called, the best first.
const SHIPPED: [&str; 2] = ["container", "debian"];

/// The file with the name of the one that was chosen.
const DEFAULT: &str = "default";

/// The name of a kernel: letters, digits, `.`, `_`, `+` and `-`, beginning with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelName(String);

/// A word that names no kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name a kernel: a name has up to 100 letters, digits, dots, underscores, plus signs and hyphens, and begins with a letter or a digit"
)]
pub struct InvalidKernelName(String);

impl FromStr for KernelName {
    type Err = InvalidKernelName;

    fn from_str(word: &str) -> Result<KernelName, InvalidKernelName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
        let begins = word.starts_with(|it: char| it.is_ascii_alphanumeric());
        match begins && word.len() <= 100 && word.bytes().all(is_allowed) && word != DEFAULT {
            true => Ok(KernelName(word.to_owned())),
            false => Err(InvalidKernelName(word.to_owned())),
        }
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A prepared kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its name.
    pub name: KernelName,
    /// What boots.
    pub image: PathBuf,
    /// What is known of it.
    pub about: About,
    /// Whether it came with the program.
    pub is_shipped: bool,
}

/// Why something about kernels could not be done.
#[derive(Debug, thiserror::Error)]
pub enum KernelsError {
    /// There is none of this name.
    #[error("there is no kernel {0}: `container system kernel ls` lists those there are")]
    NotFound(KernelName),
    /// There is one of this name already.
    #[error(
        "there is a kernel {0} already: `container system kernel set {0}` chooses it; for another one give another --name, or remove this one with `container system kernel rm {0}`"
    )]
    Exists(KernelName),
    /// It came with the program.
    #[error("the kernel {0} came with the program, and stays")]
    Shipped(KernelName),
    /// There is none at all.
    #[error(
        "there is no kernel in {}: run `make build` in a checkout, or `make install`",
        .0.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    None(Vec<PathBuf>),
    /// It cannot be used.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The files could not be read or written.
    #[error("{doing} {path}: {source}", path = .path.display())]
    Files {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// All kernels: those that came with the program, and those that were added to one world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernels {
    shipped: Vec<PathBuf>,
    own: PathBuf,
}

impl Kernels {
    /// Kernels that came with the program lie in the first of the directories `shipped` that has one of
    /// their name; those that were added in `own`, which may not be there yet.
    pub fn new(shipped: Vec<PathBuf>, own: PathBuf) -> Kernels {
        Kernels { shipped, own }
    }

    /// The kernels of this installation (`../lib/container` beside an installed program, `../guest` beside one
    /// that was built in a checkout), and those in `own`.
    ///
    /// # Errors
    /// If the program's own place is unknown.
    pub fn of_program(own: PathBuf) -> io::Result<Kernels> {
        let program = env::current_exe()?;
        let directory = program.parent().unwrap_or(Path::new("/"));
        let places = ["../lib/container/kernels", "../guest/kernels"];
        let shipped = places.map(|place| directory.join(place));
        Ok(Kernels::new(shipped.into(), own))
    }

    /// All of them: those that came with the program, then the others by name.
    ///
    /// # Errors
    /// If the directory of those that were added cannot be read.
    pub fn all(&self) -> Result<Vec<Kernel>, KernelsError> {
        let shipped = SHIPPED.iter().filter_map(|name| self.shipped(name));
        let mut all: Vec<Kernel> = shipped.collect();
        let mut own = Vec::new();
        match fs::read_dir(&self.own) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.failed("reading")(error)),
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
        let directories = self.shipped.iter().map(|place| place.join(name));
        let mut found = directories.filter_map(|directory| found(name, &directory, true));
        found.next()
    }

    fn own(&self, name: &KernelName) -> Option<Kernel> {
        found(&name.0, &self.own.join(&name.0), false)
    }

    /// The kernel of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, name: &KernelName) -> Result<Kernel, KernelsError> {
        let kernel = self.shipped(&name.0).or_else(|| self.own(name));
        kernel.ok_or_else(|| KernelsError::NotFound(name.clone()))
    }

    /// What machines boot that name no other: the one that was chosen, else the best that came with the
    /// program.
    ///
    /// # Errors
    /// If there is none at all.
    pub fn default_kernel(&self) -> Result<Kernel, KernelsError> {
        let chosen = fs::read_to_string(self.own.join(DEFAULT)).ok();
        let chosen = chosen.and_then(|name| name.trim().parse().ok());
        if let Some(kernel) = chosen.and_then(|name| self.get(&name).ok()) {
            return Ok(kernel);
        }
        let mut shipped = SHIPPED.iter().filter_map(|name| self.shipped(name));
        shipped
            .next()
            .ok_or_else(|| KernelsError::None(self.shipped.clone()))
    }

    /// Has machines boot the kernel of this name from their next start on.
    ///
    /// # Errors
    /// If there is none of this name, or the choice cannot be written down.
    pub fn set_default(&self, name: &KernelName) -> Result<Kernel, KernelsError> {
        let kernel = self.get(name)?;
        let failed = self.failed("writing into");
        fs::create_dir_all(&self.own).map_err(&failed)?;
        let new = tempfile::NamedTempFile::new_in(&self.own).map_err(&failed)?;
        fs::write(new.path(), &name.0).map_err(&failed)?;
        let kept = new.persist(self.own.join(DEFAULT));
        kept.map_err(|error| failed(error.error))?;
        Ok(kernel)
    }

    /// Adds a kernel, or nothing at all.
    ///
    /// # Errors
    /// If the image cannot be used, there is one of this name, or the files cannot be written.
    pub fn add(
        &self,
        name: &KernelName,
        image: &Path,
        source: String,
    ) -> Result<Kernel, KernelsError> {
        if self.get(name).is_ok() {
            return Err(KernelsError::Exists(name.clone()));
        }
        let failed = self.failed("writing into");
        fs::create_dir_all(&self.own).map_err(&failed)?;
        // A name that begins with a dot is nobody's.
        let scratch = tempfile::tempdir_in(&self.own).map_err(&failed)?;
        prepare::install(image, source, scratch.path())?;
        fs::rename(scratch.path(), self.own.join(&name.0)).map_err(&failed)?;
        self.get(name)
    }

    /// Removes a kernel that was added. Machines that run on it go on.
    ///
    /// # Errors
    /// If there is none of this name, it came with the program, or the files cannot be removed.
    pub fn remove(&self, name: &KernelName) -> Result<(), KernelsError> {
        if self.get(name)?.is_shipped {
            return Err(KernelsError::Shipped(name.clone()));
        }
        let failed = self.failed("removing from");
        // Gone at once, and then bit by bit.
        let scratch = tempfile::tempdir_in(&self.own).map_err(&failed)?;
        fs::rename(self.own.join(&name.0), scratch.path().join("removed")).map_err(&failed)?;
        scratch.close().map_err(&failed)
    }

    fn failed(&self, doing: &'static str) -> impl Fn(io::Error) -> KernelsError {
        let path = self.own.clone();
        move |source| KernelsError::Files {
            doing,
            path: path.clone(),
            source,
        }
    }
}

fn found(name: &str, directory: &Path, is_shipped: bool) -> Option<Kernel> {
    let image = directory.join(VMLINUX);
    Some(Kernel {
        name: KernelName(name.to_owned()),
        about: prepare::about(&image)?,
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
        let place = directory.path().join("shipped");
        let kernels = Kernels::new(vec![place.clone()], directory.path().join("own"));
        assert!(matches!(
            kernels.default_kernel(),
            Err(KernelsError::None(_))
        ));
        let image = directory.path().join("image");
        fs::write(&image, elf(None, true)).unwrap();
        let debian = place.join("debian");
        fs::create_dir_all(&debian).unwrap();
        prepare::install(&image, "a package".to_owned(), &debian).unwrap();
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

        // Nothing of what cannot be used is left.
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
