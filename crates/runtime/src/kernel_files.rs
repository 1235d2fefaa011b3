//! Kernel and initramfs of a boot.

use std::path::{Path, PathBuf};

use container_engine::Kernel;
use container_kernel::Requirements;

use crate::{
    boot_error::BootError,
    held_files::{BootFiles, HeldFiles},
};

/// What decides about kernel and initramfs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KernelChoice<'a> {
    /// Path of the kernel: a prepared one, or an ELF file or bzImage to prepare for this boot.
    pub kernel: &'a Path,
    /// Kernel parameters, appended to the engine's own.
    pub parameters: &'a str,
    /// What the kernel must support.
    pub requirements: Requirements,
}

/// Kernel and initramfs, ready for the engine.
#[derive(Debug)]
pub(crate) struct KernelFiles {
    /// The files for the engine.
    pub kernel: Kernel,
    /// The kernel image, if it was created for this boot.
    pub unpacked: Option<PathBuf>,
    /// The files that kernel and initramfs consist of. Absent if they may differ at the next boot.
    pub sources: Option<Vec<PathBuf>>,
}

impl KernelChoice<'_> {
    /// Prepares the kernel image and writes the initramfs. New files are created in `directory`.
    pub(crate) fn prepare(
        &self,
        held: &mut HeldFiles,
        directory: &Path,
    ) -> Result<KernelFiles, BootError> {
        let files = held.prepare(self.kernel, self.requirements, directory)?;
        let BootFiles {
            image,
            initramfs,
            sources,
        } = files;
        Ok(KernelFiles {
            unpacked: (image != self.kernel).then(|| image.clone()),
            sources,
            kernel: Kernel {
                image,
                initramfs,
                parameters: self.parameters.to_owned(),
            },
        })
    }
}
