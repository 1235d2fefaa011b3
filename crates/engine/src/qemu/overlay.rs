//! The image that a machine's disk is laid over (docs/interop/qcow2.rst of QEMU, "Header").

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::{ffi::OsStringExt, fs::FileExt},
    path::{Path, PathBuf},
};

use crate::EngineError;

const MAGIC: &[u8; 4] = b"QFI\xfb";
/// The longest name that the format allows.
const LONGEST: u32 = 1023;

/// The base of an overlay.
pub fn base(overlay: &Path) -> Result<PathBuf, EngineError> {
    let found = File::open(overlay).and_then(|file| read_base(&file));
    found.map_err(|source| EngineError::Base {
        path: overlay.to_owned(),
        source,
    })
}

fn read_base(file: &File) -> io::Result<PathBuf> {
    let mut header = [0; 20];
    file.read_exact_at(&mut header, 0)?;
    let offset: [u8; 8] = std::array::from_fn(|at| header[8 + at]);
    let length: [u8; 4] = std::array::from_fn(|at| header[16 + at]);
    let length = u32::from_be_bytes(length);
    if !header.starts_with(MAGIC) || !(1..=LONGEST).contains(&length) {
        return Err(io::Error::other("it is laid over no image"));
    }
    let mut name = vec![0; length as usize];
    file.read_exact_at(&mut name, u64::from_be_bytes(offset))?;
    Ok(OsString::from_vec(name).into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_base_is_the_one_that_it_was_made_over() {
        let directory = tempfile::tempdir().unwrap();
        let (base_file, overlay) = (directory.path().join("a b"), directory.path().join("disk"));
        fs::write(&base_file, [0; 4096]).unwrap();
        crate::create_overlay(&base_file, &overlay).unwrap();
        assert_eq!(base(&overlay).unwrap(), base_file);
        assert!(base(&base_file).is_err());
        fs::write(&base_file, "short").unwrap();
        assert!(base(&base_file).is_err());
    }
}
