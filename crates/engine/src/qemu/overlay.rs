//! What a disk lies on, as the head of its file says (QEMU, docs/interop/qcow2.rst, "Header").
//! `qemu-img info` would have to be told not to mind a machine that runs, and takes longer.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
};

const MAGIC: &[u8] = b"QFI\xfb";
/// The longest name that the format allows.
const LONGEST: u32 = 1023;

/// The name of the backing file; none if there is none.
pub fn base_of(disk: &Path) -> io::Result<Option<PathBuf>> {
    let malformed = |reason| io::Error::new(ErrorKind::InvalidData, reason);
    let file = File::open(disk)?;
    let mut header = [0; 20];
    file.read_exact_at(&mut header, 0)?;
    let (magic, rest) = header.split_at(4);
    if magic != MAGIC {
        return Err(malformed("it is no qcow2 file"));
    }
    // Behind the magic: version, offset and length of the name, big-endian.
    let (mut offset, mut length) = ([0; 8], [0; 4]);
    offset.copy_from_slice(&rest[4..12]);
    length.copy_from_slice(&rest[12..16]);
    let (offset, length) = (u64::from_be_bytes(offset), u32::from_be_bytes(length));
    if offset == 0 {
        return Ok(None);
    }
    if length > LONGEST {
        return Err(malformed("the name of what it lies on is too long"));
    }
    let mut name = vec![0; length as usize];
    file.read_exact_at(&mut name, offset)?;
    let directory = disk.parent().unwrap_or(Path::new("/"));
    Ok(Some(directory.join(OsStr::from_bytes(&name))))
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn what_a_disk_lies_on_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let (base, disk) = (
            directory.path().join("base.ext4"),
            directory.path().join("disk.qcow2"),
        );
        fs::write(&base, [0; 512]).unwrap();
        crate::create_overlay(&base, &disk).unwrap();
        assert_eq!(base_of(&disk).unwrap(), Some(base.clone()));
        // It is of no matter whether that is still there.
        fs::remove_file(&base).unwrap();
        assert_eq!(base_of(&disk).unwrap(), Some(base));

        let whole = directory.path().join("whole.qcow2");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&whole)
            .arg("1M")
            .status();
        assert!(made.unwrap().success());
        assert_eq!(base_of(&whole).unwrap(), None);
    }

    #[test]
    fn what_is_no_disk_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk.qcow2");
        let mut long = [0; 20];
        long[..4].copy_from_slice(MAGIC);
        long[15] = 1;
        long[16] = 0xff;
        for bytes in [&b""[..], b"QFI", &[0; 4096], &long] {
            fs::write(&disk, bytes).unwrap();
            assert!(base_of(&disk).is_err(), "{bytes:?}");
        }
    }
}
