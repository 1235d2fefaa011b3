//! Kernels that machines boot.
//!
//! - An [`Image`] is what a person or a package calls a kernel: an ELF file, or a bzImage with one
//!   inside. What it can do stands in its configuration, where it has that with it.
//! - A prepared [`Kernel`] is a directory with what boots: `vmlinux`, the `modules.cpio` that it needs
//!   before it has a disk, if it needs any, and `kernel.json`.
//! - [`Kernels`] are all that there are: those that came with the program, and those that were added.

mod archive;
mod compression;
mod configuration;
mod image;
mod kernels;
mod modules;
mod prepare;

pub use archive::Archive;
pub use compression::{Compression, decompress};
pub use configuration::{KernelConfiguration, Needs};
pub use image::{Image, ImageError, check_file};
pub use kernels::{InvalidKernelName, Kernel, KernelName, Kernels, KernelsError};
pub use modules::{ModulesError, module_directory, pack};
pub use prepare::{About, PrepareError, check, install, prepare};
