//! Disk files of machines: qcow2 overlays over a raw base image.
//!
//! Overlays are created and grown by `qemu-img`. Capacity and base are read from the file's header
//! (QEMU, docs/interop/qcow2.rst, "Header"), also while the machine runs: `qemu-img info` would
//! have to be asked to ignore the running machine's lock, and takes longer.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::program::{IMAGE_TOOL, find};
use crate::interface::MissingProgram;

/// The file's first four bytes.
const MAGIC: &[u8] = b"QFI\xfb";

/// Maximum length of a backing file's name in bytes, set by the format.
const MAX_BACKING_FILE_SIZE: u32 = 1023;

/// Error of reading or changing a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// `qemu-img` is not installed.
    #[error(transparent)]
    NoProgram(#[from] MissingProgram),
    /// The disk's header cannot be read, or is not valid.
    #[error("cannot read the disk {path}: {cause}")]
    Read {
        /// Path of the qcow2 overlay.
        path: PathBuf,
        /// Error of the read; of kind `InvalidData` for an invalid header.
        cause: io::Error,
    },
    /// `qemu-img` could not create or grow the disk.
    #[error("cannot {action} the disk {path}: {message}")]
    Change {
        /// `create` or `grow`.
        action: &'static str,
        /// Path of the qcow2 overlay.
        path: PathBuf,
        /// Output of `qemu-img`, or why it could not be started.
        message: String,
    },
}

/// Creates `overlay`, a disk with the contents of the raw image `base` until it is written to. It
/// takes the same time for every size of the image.
///
/// # Errors
/// [`DiskError`].
pub fn create_overlay(base: &Path, overlay: &Path) -> Result<(), DiskError> {
    let mut create = image_tool()?;
    create
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([base, overlay]);
    run(create, "create", overlay)
}

/// Creates `disk`, an empty disk without a base.
///
/// # Errors
/// [`DiskError`].
pub fn create_empty(disk: &Path, capacity: u64) -> Result<(), DiskError> {
    let mut create = image_tool()?;
    create
        .args(["create", "-q", "-f", "qcow2"])
        .arg(disk)
        .arg(capacity.to_string());
    run(create, "create", disk)
}

/// Grows a disk to `capacity` bytes, the new ones zero; a larger disk stays as it is. After an
/// interruption the disk has either the old or the new capacity. The disk must not be in use.
///
/// # Errors
/// [`DiskError`].
pub fn grow(disk: &Path, capacity: u64) -> Result<(), DiskError> {
    if read_capacity(disk)? >= capacity {
        return Ok(());
    }
    let mut resize = image_tool()?;
    resize
        .args(["resize", "-q", "-f", "qcow2"])
        .arg(disk)
        .arg(capacity.to_string());
    run(resize, "grow", disk)
}

/// Returns the capacity of a disk in bytes. The disk may be in use.
///
/// # Errors
/// [`DiskError::Read`].
pub fn read_capacity(disk: &Path) -> Result<u64, DiskError> {
    let read = || Ok(Header::read(&File::open(disk)?)?.size);
    read().map_err(|cause| read_error(disk, cause))
}

/// Returns the base image of a disk, whether or not that exists; absent if the disk has none. The
/// disk may be in use.
///
/// # Errors
/// [`DiskError::Read`].
pub fn read_base(disk: &Path) -> Result<Option<PathBuf>, DiskError> {
    let read = || {
        let file = File::open(disk)?;
        let Some(name) = Header::read(&file)?.read_backing_file(&file)? else {
            return Ok(None);
        };
        // A relative name is relative to the overlay's directory.
        let directory = disk.parent().unwrap_or(Path::new("/"));
        Ok(Some(directory.join(OsStr::from_bytes(&name))))
    };
    read().map_err(|cause| read_error(disk, cause))
}

fn read_error(disk: &Path, cause: io::Error) -> DiskError {
    DiskError::Read {
        path: disk.to_owned(),
        cause,
    }
}

/// Fields of a qcow2 header that are needed here.
struct Header {
    backing_file_offset: u64,
    backing_file_size: u32,
    size: u64,
}

impl Header {
    /// Reads the header. Numbers are big-endian: `magic` at 0, `version` at 4,
    /// `backing_file_offset` at 8, `backing_file_size` at 16, `cluster_bits` at 20, `size` at 24.
    fn read(file: &File) -> io::Result<Header> {
        let mut header = [0; 32];
        file.read_exact_at(&mut header, 0)?;
        if !header.starts_with(MAGIC) {
            return Err(invalid("not a qcow2 file"));
        }
        let (mut offset, mut length, mut size) = ([0; 8], [0; 4], [0; 8]);
        offset.copy_from_slice(&header[8..16]);
        length.copy_from_slice(&header[16..20]);
        size.copy_from_slice(&header[24..32]);
        Ok(Header {
            backing_file_offset: u64::from_be_bytes(offset),
            backing_file_size: u32::from_be_bytes(length),
            size: u64::from_be_bytes(size),
        })
    }

    /// Reads the backing file's name; absent if the disk has no backing file.
    fn read_backing_file(&self, file: &File) -> io::Result<Option<Vec<u8>>> {
        if self.backing_file_offset == 0 {
            return Ok(None);
        }
        if self.backing_file_size > MAX_BACKING_FILE_SIZE {
            return Err(invalid("the name of its base image is too long"));
        }
        let mut name = vec![0; self.backing_file_size as usize];
        file.read_exact_at(&mut name, self.backing_file_offset)?;
        Ok(Some(name))
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

fn image_tool() -> Result<Command, MissingProgram> {
    let mut tool = Command::new(find(IMAGE_TOOL)?);
    tool.stdin(Stdio::null());
    Ok(tool)
}

fn run(mut tool: Command, action: &'static str, disk: &Path) -> Result<(), DiskError> {
    let failed = |message: String| DiskError::Change {
        action,
        path: disk.to_owned(),
        message,
    };
    let output = tool.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(failed(
        message.trim().trim_start_matches("qemu-img: ").to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_base_of_an_overlay_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (base, disk) = (
            directory.path().join("base.ext4"),
            directory.path().join("disk.qcow2"),
        );
        fs::write(&base, [0; 512]).unwrap();
        create_overlay(&base, &disk).unwrap();
        assert_eq!(read_base(&disk).unwrap(), Some(base.clone()));
        // The base need not exist.
        fs::remove_file(&base).unwrap();
        assert_eq!(read_base(&disk).unwrap(), Some(base));

        let whole = directory.path().join("whole.qcow2");
        create_empty(&whole, 1 << 20).unwrap();
        assert_eq!(read_capacity(&whole).unwrap(), 1 << 20);
        assert_eq!(read_base(&whole).unwrap(), None);
    }

    #[test]
    fn an_invalid_header_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk.qcow2");
        let mut long_name = [0; 32];
        long_name[..4].copy_from_slice(MAGIC);
        long_name[15] = 1;
        long_name[16] = 0xff;
        for bytes in [&b""[..], b"QFI", &[0; 4096], &long_name] {
            fs::write(&disk, bytes).unwrap();
            assert!(read_base(&disk).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_disk_grows_and_never_shrinks() {
        let directory = tempfile::tempdir().unwrap();
        let (base, disk) = (
            directory.path().join("base.ext4"),
            directory.path().join("disk.qcow2"),
        );
        fs::write(&base, [1; 4096]).unwrap();
        create_overlay(&base, &disk).unwrap();
        assert_eq!(read_capacity(&disk).unwrap(), 4096);
        for (wanted, had) in [(8 << 40, 8 << 40), (1 << 30, 8 << 40), (0, 8 << 40)] {
            grow(&disk, wanted).unwrap();
            assert_eq!(read_capacity(&disk).unwrap(), had);
        }
        assert_eq!(read_base(&disk).unwrap(), Some(base));
        fs::write(&disk, "no disk").unwrap();
        assert!(grow(&disk, 1 << 30).is_err());
    }
}
