//! Files that a machine boots with, held open.
//!
//! An update of the program replaces them while machines run. A machine that its guest reboots
//! boots with the same kernel and agent as before: this runtime may not know the new agent's
//! messages, and the modules of a kernel fit no other one.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use container_kernel::{KernelMetadata, Requirements};

use crate::{boot_error::BootError, file_identity::FileIdentity, guest_files::GuestFiles};

/// Name of the initramfs in the runtime directory.
pub(crate) const INITRAMFS: &str = "initramfs";

/// Name of a held kernel's copy in the runtime directory.
const IMAGE: &str = "held-kernel";

/// A file that can be read after it was replaced or removed.
#[derive(Debug)]
struct HeldFile {
    path: PathBuf,
    file: File,
    identity: FileIdentity,
}

impl HeldFile {
    fn open(path: &Path) -> io::Result<HeldFile> {
        let file = File::open(path)?;
        Ok(HeldFile {
            path: path.to_owned(),
            identity: FileIdentity::of_open(path, &file)?,
            file,
        })
    }

    /// Opens it again, at its beginning.
    fn reopen(&self) -> io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// The files that one machine boots with.
#[derive(Debug)]
pub(crate) struct HeldFiles {
    /// The archives with the agent and the interpreter.
    guest: Vec<HeldFile>,
    /// Image and modules of a prepared kernel. Absent before the first boot, and for a kernel that
    /// is prepared for each boot.
    kernel: Option<HeldKernel>,
}

#[derive(Debug)]
struct HeldKernel {
    image: HeldFile,
    modules: Option<HeldFile>,
}

/// Kernel and initramfs of one boot.
pub(crate) struct BootFiles {
    /// The kernel's image.
    pub(crate) image: PathBuf,
    /// The initramfs.
    pub(crate) initramfs: PathBuf,
    /// The files that both consist of. Absent if they may differ at the next boot.
    pub(crate) sources: Option<Vec<PathBuf>>,
}

impl HeldFiles {
    /// Opens the files of this installation for programs of `architecture`.
    pub(crate) fn open(architecture: &str) -> Result<HeldFiles, BootError> {
        let GuestFiles { agent, interpreter } = GuestFiles::find(architecture)?;
        let files = std::iter::once(agent).chain(interpreter);
        let guest = files.map(|file| HeldFile::open(&file));
        Ok(HeldFiles {
            guest: guest
                .collect::<io::Result<_>>()
                .map_err(BootError::Initramfs)?,
            kernel: None,
        })
    }

    /// Returns the identities of the archives that the guest boots with.
    pub(crate) fn guest(&self) -> Vec<FileIdentity> {
        self.guest.iter().map(|it| it.identity.clone()).collect()
    }

    /// Prepares the kernel `kernel` and writes the initramfs. New files are created in `directory`.
    pub(crate) fn prepare(
        &mut self,
        kernel: &Path,
        requirements: Requirements,
        directory: &Path,
    ) -> Result<BootFiles, BootError> {
        if let Some(held) = &self.kernel
            && !held.files().all(|it| it.identity.is_current())
        {
            return self
                .prepare_held(held, directory)
                .map_err(BootError::Initramfs);
        }
        let (image, modules) = container_kernel::prepare(kernel, requirements, directory)?;
        let write = || {
            let modules = modules.as_deref().map(HeldFile::open).transpose()?;
            self.write_initramfs(modules.as_ref(), directory)
        };
        let initramfs = write().map_err(BootError::Initramfs)?;
        if self.kernel.is_none() && KernelMetadata::read(kernel).is_some() {
            let hold = || HeldKernel::open(&image, modules.as_deref());
            self.kernel = Some(hold().map_err(BootError::Initramfs)?);
        }
        let mut sources = vec![image.clone()];
        sources.extend(modules);
        let is_permanent = !sources.iter().any(|file| file.starts_with(directory))
            && self.guest.iter().all(|it| it.identity.is_current());
        sources.extend(self.guest.iter().map(|it| it.path.clone()));
        Ok(BootFiles {
            image,
            initramfs,
            sources: is_permanent.then_some(sources),
        })
    }

    /// Prepares a kernel that was replaced or removed.
    fn prepare_held(&self, kernel: &HeldKernel, directory: &Path) -> io::Result<BootFiles> {
        let image = directory.join(IMAGE);
        io::copy(&mut kernel.image.reopen()?, &mut File::create(&image)?)?;
        Ok(BootFiles {
            image,
            initramfs: self.write_initramfs(kernel.modules.as_ref(), directory)?,
            sources: None,
        })
    }

    /// Writes the initramfs: the archives, and that of the kernel's modules if it needs any. The
    /// kernel accepts concatenated archives
    /// (Documentation/driver-api/early-userspace/buffer-format.rst).
    fn write_initramfs(&self, modules: Option<&HeldFile>, directory: &Path) -> io::Result<PathBuf> {
        let path = directory.join(INITRAMFS);
        let mut initramfs = File::create(&path)?;
        for archive in self.guest.iter().chain(modules) {
            io::copy(&mut archive.reopen()?, &mut initramfs)?;
        }
        Ok(path)
    }
}

impl HeldKernel {
    fn open(image: &Path, modules: Option<&Path>) -> io::Result<HeldKernel> {
        Ok(HeldKernel {
            image: HeldFile::open(image)?,
            modules: modules.map(HeldFile::open).transpose()?,
        })
    }

    fn files(&self) -> impl Iterator<Item = &HeldFile> {
        std::iter::once(&self.image).chain(&self.modules)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Replaces a file as an installation does.
    fn replace(path: &Path, contents: &str) {
        let new = path.with_extension("new");
        fs::write(&new, contents).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn files_that_an_update_replaces_are_used_until_the_machine_ends() {
        let (installed, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = |name: &str| installed.path().join(name);
        let [agent, image, modules] = ["agent", "vmlinux", "modules"].map(file);
        for file in [&agent, &image, &modules] {
            fs::write(file, "old").unwrap();
        }
        let held = HeldFiles {
            guest: vec![HeldFile::open(&agent).unwrap()],
            kernel: None,
        };
        let kernel = HeldKernel::open(&image, Some(&modules)).unwrap();
        assert!(kernel.files().all(|it| it.identity.is_current()));
        replace(&agent, "new agent");
        replace(&image, "new kernel");
        fs::remove_file(&modules).unwrap();
        assert!(!kernel.files().any(|it| it.identity.is_current()));
        // More than once, as a machine may reboot often.
        for _ in 0..2 {
            let files = held.prepare_held(&kernel, runtime.path()).unwrap();
            assert_eq!(fs::read(&files.image).unwrap(), b"old");
            assert_eq!(fs::read(&files.initramfs).unwrap(), b"oldold");
            assert_eq!(files.sources, None, "no template is made or used");
        }
    }
}
