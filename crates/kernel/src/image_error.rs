//! Errors of reading kernel images.

use std::{io, path::PathBuf};

/// Largest kernel that is accepted, compressed or not. Real ones are much smaller; the limit bounds
/// what a crafted image can make us decompress.
pub(crate) const MAX_SIZE: u64 = if cfg!(fuzzing) { 16 << 20 } else { 512 << 20 };

/// Error of reading a kernel image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("cannot read kernel {path}: {cause}", path = .path.display())]
    Read {
        /// Path of the image.
        path: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
    /// The file is not a kernel that machines can boot.
    #[error("kernel {path} cannot be used: {cause}", path = .path.display())]
    Invalid {
        /// Path of the image.
        path: PathBuf,
        /// Reason of the refusal.
        cause: InvalidKernel,
    },
}

/// Reason why a file is not a kernel that machines can boot.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKernel {
    /// The path is relative.
    #[error("the path is not absolute")]
    RelativePath,
    /// The path leads to a directory or a special file.
    #[error("it is not a regular file")]
    NotAFile,
    /// The file has no contents.
    #[error("it is empty")]
    Empty,
    /// The file is larger than the limit of 512 MiB.
    #[error("it is larger than 512 MiB")]
    TooLarge,
    /// The file is in another format.
    #[error("it is neither an ELF file (vmlinux) nor a bzImage (vmlinuz)")]
    UnknownFormat,
    /// The kernel was built for another processor.
    #[error("it is for another architecture: machines here need x86-64")]
    OtherArchitecture,
    /// The file ends before its headers say.
    #[error("it is truncated")]
    Truncated,
    /// The bzImage's payload is in an unknown format.
    #[error("the compression of its payload is not supported (only gzip, xz, lz4 and zstd are)")]
    UnknownCompression,
    /// The bzImage's payload is damaged.
    #[error("cannot decompress its payload: {0}")]
    Decompress(io::Error),
    /// The bzImage's payload does not have the size that its header states.
    #[error("its payload does not have the stated size after decompression")]
    WrongSize,
    /// The file has no version banner.
    #[error("it has no Linux version, so it is not a kernel, or only its debugging symbols")]
    NoVersion,
}
