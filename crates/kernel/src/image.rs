//! Kernel images, as users and packages provide them.

use std::{fs, io::Read, path::Path};

use memchr::memmem;

use crate::{
    bzimage,
    compression::decompress,
    configuration::KernelConfiguration,
    elf,
    image_error::{ImageError, InvalidKernel, MAX_SIZE},
};

/// Length up to which the release in the version banner is searched for its end.
const MAX_RELEASE: usize = 128;

/// A kernel image that has been parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelImage {
    /// The ELF file: the image itself, or a bzImage's payload.
    elf: Vec<u8>,
    is_bzimage: bool,
    release: String,
}

impl KernelImage {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// If it cannot be read, is not a kernel for this architecture, or has an unknown compression.
    pub(crate) fn read(path: &Path) -> Result<KernelImage, ImageError> {
        check_file(path)?;
        let bytes = fs::read(path).map_err(|cause| ImageError::Read {
            path: path.to_owned(),
            cause,
        })?;
        KernelImage::parse(bytes).map_err(|cause| ImageError::Invalid {
            path: path.to_owned(),
            cause,
        })
    }

    /// Parses the bytes of an ELF file or a bzImage.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<KernelImage, InvalidKernel> {
        let is_bzimage = bzimage::is_bzimage(&bytes);
        let elf = if is_bzimage {
            bzimage::payload(&bytes)?
        } else {
            bytes
        };
        elf::check(&elf)?;
        let release = find_release(&elf).ok_or(InvalidKernel::NoVersion)?;
        Ok(KernelImage {
            elf,
            is_bzimage,
            release,
        })
    }

    /// Returns the version that the kernel was built as, as `uname -r` prints it.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// Returns the bytes of the ELF file.
    pub(crate) fn elf(&self) -> &[u8] {
        &self.elf
    }

    /// Whether the image is a bzImage. The engine's firmware can start those without PVH, slowly.
    pub(crate) fn is_bzimage(&self) -> bool {
        self.is_bzimage
    }

    /// Whether the engine can start the ELF file directly (`CONFIG_PVH`).
    pub(crate) fn has_pvh(&self) -> bool {
        elf::has_pvh_entry(&self.elf)
    }

    /// Returns the embedded configuration, if the kernel has one (`CONFIG_IKCONFIG`).
    pub(crate) fn configuration(&self) -> Option<KernelConfiguration> {
        // The two markers are in kernel/configs.c; a gzip stream is between them.
        let start = memmem::find(&self.elf, b"IKCFG_ST\x1f\x8b")? + 8;
        let length = memmem::find(&self.elf[start..], b"IKCFG_ED")?;
        let mut text = String::new();
        let stream = decompress(&self.elf[start..start + length]).ok()?;
        stream.take(MAX_SIZE).read_to_string(&mut text).ok()?;
        Some(KernelConfiguration::parse(&text))
    }
}

/// Checks that this is the absolute path of a readable regular file of a plausible size.
///
/// # Errors
/// If it is not.
pub fn check_file(path: &Path) -> Result<(), ImageError> {
    let failed = |cause| ImageError::Read {
        path: path.to_owned(),
        cause,
    };
    let invalid = |cause| ImageError::Invalid {
        path: path.to_owned(),
        cause,
    };
    if !path.is_absolute() {
        return Err(invalid(InvalidKernel::RelativePath));
    }
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(invalid(InvalidKernel::NotAFile));
    }
    match metadata.len() {
        0 => Err(invalid(InvalidKernel::Empty)),
        length if length > MAX_SIZE => Err(invalid(InvalidKernel::TooLarge)),
        _ => fs::File::open(path).map(drop).map_err(failed),
    }
}

/// Finds the release in the banner "Linux version RELEASE (…".
fn find_release(elf: &[u8]) -> Option<String> {
    let banner = b"Linux version ";
    // There can be other matches, such as the format string that prints the banner.
    memmem::find_iter(elf, banner).find_map(|at| {
        let rest = &elf[at + banner.len()..];
        let end = rest
            .iter()
            .take(MAX_RELEASE)
            .position(|&byte| byte == b' ')?;
        let release = std::str::from_utf8(&rest[..end]).ok()?;
        // The release becomes a part of a path, so it must not contain a slash.
        let is_release = release.starts_with(|it: char| it.is_ascii_digit())
            && release.chars().all(|it| it.is_ascii_graphic() && it != '/');
        is_release.then(|| release.to_owned())
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// Returns the parts of an ELF file that are parsed: a note, a banner, and a configuration.
    pub(crate) fn elf(configuration: Option<&str>, has_pvh: bool) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf[32] = 64;
        (elf[54], elf[56]) = (56, 1);
        let mut header = [0u8; 56];
        (header[0], header[8], header[32]) = (4, 120, 20);
        elf.extend(header);
        for word in [4u32, 4, if has_pvh { 18 } else { 19 }] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(b"Xen\0\0\0\0\x01");
        elf.extend(b"Linux version %s (never)\0Linux version 6.12.9-test (me) #1");
        if let Some(text) = configuration {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(text.as_bytes()).unwrap();
            elf.extend(b"IKCFG_ST");
            elf.extend(packed.finish().unwrap());
            elf.extend(b"IKCFG_ED");
        }
        elf
    }

    fn bzimage(stream: &[u8], size: Option<usize>) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        let size = size.map(|size| (size as u32).to_le_bytes());
        let length = stream.len() + size.map_or(0, |it| it.len());
        image[0x24c..0x250].copy_from_slice(&(length as u32).to_le_bytes());
        image.extend(stream);
        image.extend(size.into_iter().flatten());
        image
    }

    #[test]
    fn invalid_kernels_are_refused() {
        let mut other = elf(None, true);
        other[18] = 183;
        let mut cut_off = vec![0; 0x400];
        cut_off[0x202..0x206].copy_from_slice(b"HdrS");
        cut_off[0x24c] = 0xff;
        for wrong in [&b""[..], &[0; 0x1000], b"\x7fELF", &other, &cut_off] {
            assert!(KernelImage::parse(wrong.to_vec()).is_err());
        }
        let mut short = elf(None, true);
        short.truncate(130);
        assert!(matches!(
            KernelImage::parse(short),
            Err(InvalidKernel::Truncated)
        ));
        assert!(KernelImage::parse(b"\x7fELF\x02\x01".repeat(40)).is_err());
    }

    #[test]
    fn a_kernels_properties_are_read() {
        let image = KernelImage::parse(elf(Some("CONFIG_PVH=y\n"), true)).unwrap();
        assert_eq!(image.release(), "6.12.9-test");
        assert!(image.has_pvh() && !image.is_bzimage());
        assert!(image.configuration().unwrap().is_set("PVH"));
        let image = KernelImage::parse(elf(None, false)).unwrap();
        assert!(!image.has_pvh() && image.configuration().is_none());
    }

    #[test]
    fn a_bzimage_is_decompressed_in_every_format() {
        let elf = elf(Some("CONFIG_PVH=y\n"), true);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&elf).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&elf).unwrap();
        let size = Some(elf.len());
        let zstd = zstd::encode_all(&elf[..], 1).unwrap();
        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
        let block = lz4_flex::block::compress(&elf);
        lz4.extend((block.len() as u32).to_le_bytes());
        lz4.extend(block);
        for image in [
            bzimage(&gzip.finish().unwrap(), None),
            bzimage(&xz.finish().unwrap(), size),
            bzimage(&zstd, size),
            bzimage(&lz4, size),
        ] {
            let image = KernelImage::parse(image).unwrap();
            assert!(image.is_bzimage() && image.elf() == elf);
        }
        let lie = KernelImage::parse(bzimage(&zstd, Some(7))).unwrap_err();
        assert!(matches!(lie, InvalidKernel::WrongSize), "{lie}");
        let bzip2 = KernelImage::parse(bzimage(b"BZh91AY&SY", size)).unwrap_err();
        assert!(
            matches!(bzip2, InvalidKernel::UnknownCompression),
            "{bzip2}"
        );
    }
}
