//! Kernels that machines boot.
//!
//! - A *kernel image* is what a user or a package provides: an ELF file (vmlinux), or a bzImage
//!   (vmlinuz) with an ELF file inside. It may contain its configuration.
//! - A *prepared* [`Kernel`] is a directory with `vmlinux`, `kernel.json` ([`KernelMetadata`]) and,
//!   if it needs modules before it has a disk, `modules.cpio`.
//! - [`Kernels`] are the prepared kernels of an installation and of its user.
//!
//! | module | responsibility |
//! |---|---|
//! | `image`, `bzimage`, `elf`, `image_error` | parse kernel images |
//! | `configuration` | options that machines need |
//! | `modules`, `initramfs` | pack modules into an initramfs |
//! | `prepare`, `metadata` | check a kernel and prepare it for booting |
//! | `kernels`, `name` | list, add, choose and remove kernels |
//! | `source`, `fetch`, `extract`, `digest` | get a kernel from a file, a URL or a tar archive |
//!
//! # Example
//!
//! ```no_run
//! use container_kernel::{KernelSource, Kernels, KernelsError, extract, fetch};
//!
//! # async fn add() -> Result<(), Box<dyn std::error::Error>> {
//! let kernels = Kernels::from_installation("/home/me/.local/share/container/kernels".into())?;
//! let source = KernelSource::parse("./kata.tar.xz", Some("opt/kata/vmlinux".to_owned()), None)?;
//! let name = source.kernel_name()?;
//! let archive = fetch(&source, |_, _| ()).await?;
//! let image = std::env::temp_dir().join("vmlinux");
//! extract(archive.path(), "opt/kata/vmlinux", &image)?;
//! kernels.add(&name, &image, source.to_string())?;
//! kernels.set_default(&name)?;
//! # Ok(())
//! # }
//! ```

mod bzimage;
mod compression;
mod configuration;
mod digest;
mod elf;
mod extract;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod image;
mod image_error;
mod initramfs;
mod kernels;
mod metadata;
mod modules;
mod name;
mod prepare;
mod source;

pub use configuration::Requirements;
pub use digest::{InvalidSha256, Sha256Digest};
pub use extract::{ExtractError, extract};
pub use fetch::{FetchError, FetchedFile, fetch};
pub use image::check_file;
pub use image_error::{ImageError, InvalidKernel};
pub use initramfs::Initramfs;
pub use kernels::{Kernel, Kernels, KernelsError};
pub use metadata::KernelMetadata;
pub use modules::ModulesError;
pub use name::{InvalidKernelName, KernelName};
pub use prepare::{PrepareError, check, install, prepare};
pub use source::{KernelSource, SourceError};
