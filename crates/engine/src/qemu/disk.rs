//! What a disk is, as the head of its file says (QEMU, docs/interop/qcow2.rst, "Header").
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

/// The parts of a head that are of use here.
struct Header {
    name_offset: u64,
    name_length: u32,
    capacity: u64,
}

impl Header {
    fn read(file: &File) -> io::Result<Header> {
        // Big-endian: magic, version, offset and length of the backing file's name, logarithm of
        // the cluster size, bytes that the disk can hold.
        let mut header = [0; 32];
        file.read_exact_at(&mut header, 0)?;
        if !header.starts_with(MAGIC) {
            return Err(malformed("it is no qcow2 file"));
        }
        let (mut offset, mut length, mut capacity) = ([0; 8], [0; 4], [0; 8]);
        offset.copy_from_slice(&header[8..16]);
        length.copy_from_slice(&header[16..20]);
        capacity.copy_from_slice(&header[24..32]);
        Ok(Header {
            name_offset: u64::from_be_bytes(offset),
            name_length: u32::from_be_bytes(length),
            capacity: u64::from_be_bytes(capacity),
        })
    }
}

fn malformed(reason: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

/// How many bytes the disk can hold.
pub fn capacity_of(disk: &Path) -> io::Result<u64> {
    Ok(Header::read(&File::open(disk)?)?.capacity)
}

/// The name of the backing file; none if there is none.
pub fn base_of(disk: &Path) -> io::Result<Option<PathBuf>> {
    let file = File::open(disk)?;
    let header = Header::read(&file)?;
    if header.name_offset == 0 {
        return Ok(None);
    }
    if header.name_length > LONGEST {
        return Err(malformed("the name of what it lies on is too long"));
    }
    let mut name = vec![0; header.name_length as usize];
    file.read_exact_at(&mut name, header.name_offset)?;
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
        let mut long = [0; 32];
        long[..4].copy_from_slice(MAGIC);
        long[15] = 1;
        long[16] = 0xff;
        for bytes in [&b""[..], b"QFI", &[0; 4096], &long] {
            fs::write(&disk, bytes).unwrap();
            assert!(base_of(&disk).is_err(), "{bytes:?}");
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
        crate::create_overlay(&base, &disk).unwrap();
        assert_eq!(capacity_of(&disk).unwrap(), 4096);
        let engine = crate::engine(&crate::EngineSettings::default());
        for (wanted, had) in [(8 << 40, 8 << 40), (1 << 30, 8 << 40), (0, 8 << 40)] {
            engine.grow_disk(&disk, wanted).unwrap();
            assert_eq!(capacity_of(&disk).unwrap(), had);
        }
        assert_eq!(base_of(&disk).unwrap(), Some(base));
        fs::write(&disk, "no disk").unwrap();
        assert!(engine.grow_disk(&disk, 1 << 30).is_err());
    }
}
