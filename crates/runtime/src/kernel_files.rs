//! Kernel and initramfs of a boot.

use std::path::{Path, PathBuf};

use container_engine::Kernel;
use container_kernel::Requirements;

use crate::{boot_error::BootError, guest_files::GuestFiles};

/// What decides about kernel and initramfs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KernelChoice<'a> {
    /// Path of the kernel: a prepared one, or an ELF file or bzImage to prepare for this boot.
    pub kernel: &'a Path,
    /// Kernel parameters, appended to the engine's own.
    pub parameters: &'a str,
    /// Architecture of the machine's programs.
    pub architecture: &'a str,
    /// What the kernel must support.
    pub requirements: Requirements,
}

/// Kernel and initramfs, ready for the engine.
#[derive(Debug)]
pub(crate) struct KernelFiles {
    /// The files for the engine.
    pub kernel: Kernel,
    /// The kernel image, if it was unpacked for this boot.
    pub unpacked: Option<PathBuf>,
    /// The files that kernel and initramfs consist of. Absent if one was unpacked for this boot,
    /// because it may differ at the next.
    pub sources: Option<Vec<PathBuf>>,
}

impl KernelChoice<'_> {
    /// Prepares the kernel image and writes the initramfs. New files are created in `directory`.
    pub(crate) fn prepare(&self, directory: &Path) -> Result<KernelFiles, BootError> {
        let files = GuestFiles::find(self.architecture)?;
        let (image, modules) =
            container_kernel::prepare(self.kernel, self.requirements, directory)?;
        let initramfs = directory.join(INITRAMFS);
        files
            .write_initramfs(modules.as_deref(), &initramfs)
            .map_err(BootError::Initramfs)?;
        let unpacked = (image != self.kernel).then(|| image.clone());
        let mut sources = vec![image.clone()];
        sources.extend(modules);
        let is_permanent = !sources.iter().any(|file| file.starts_with(directory));
        sources.push(files.agent);
        sources.extend(files.interpreter);
        let kernel = Kernel {
            image,
            initramfs,
            parameters: self.parameters.to_owned(),
        };
        Ok(KernelFiles {
            kernel,
            unpacked,
            sources: is_permanent.then_some(sources),
        })
    }
}

/// Name of the initramfs in the runtime directory.
pub(crate) const INITRAMFS: &str = "initramfs";
