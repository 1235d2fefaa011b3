//! A kernel's image (Linux, Documentation/arch/x86/boot.rst, "The real-mode kernel header", protocol 2.08
//! on; for what QEMU starts without a boot loader, Xen's "x86/HVM direct boot ABI", PVH).

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use memchr::memmem;

use crate::{
    compression::{Compression, decompress},
    configuration::KernelConfiguration,
};

/// Larger kernels are refused: none is, and what is compressed may lie.
const LARGEST: u64 = 512 << 20;

/// The note that says where the kernel is entered: its name, and its type among Xen's
/// (xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY).
const NOTE_OWNER: &[u8] = b"Xen\0";
const PHYS32_ENTRY: u32 = 18;

/// A kernel's image, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The ELF file: the image itself, or what it holds.
    elf: Vec<u8>,
    /// Whether the image was a bzImage.
    is_bzimage: bool,
    /// The version that it was built as: what `uname -r` says.
    release: String,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be read.
    #[error("the kernel {path} cannot be used: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no kernel, or one of another kind.
    #[error("the kernel {path} cannot be used: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl Image {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is not a kernel for this processor, or is compressed in an unknown way.
    pub fn read(path: &Path) -> Result<Image, ImageError> {
        check_file(path)?;
        let bytes = fs::read(path).map_err(|source| ImageError::Read {
            path: path.to_owned(),
            source,
        })?;
        Image::of(bytes).map_err(|reason| ImageError::Unusable {
            path: path.to_owned(),
            reason,
        })
    }

    /// The kernel in these bytes; else what is wrong with them.
    pub fn of(bytes: Vec<u8>) -> Result<Image, String> {
        let is_bzimage = bytes.get(0x202..0x206) == Some(b"HdrS");
        let elf = match is_bzimage {
            true => payload(&bytes)?,
            false => bytes,
        };
        let Some(header) = elf.get(..64).filter(|it| it.starts_with(b"\x7fELF")) else {
            return Err("it is neither an ELF file (vmlinux) nor a bzImage (vmlinuz)".to_owned());
        };
        // ELF-64, little-endian, EM_X86_64 (elf(5)).
        if header[4..6] != [2, 1] || header[18..20] != [62, 0] {
            return Err("it is for another processor: machines here need x86-64".to_owned());
        }
        if !is_whole(&elf) {
            return Err("it is cut off".to_owned());
        }
        let release = release(&elf).ok_or(
            "it has no Linux version in it, so it is no kernel, or its debugging symbols only",
        )?;
        Ok(Image {
            is_bzimage,
            release,
            elf,
        })
    }

    /// The version that it was built as: what `uname -r` says.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The ELF file.
    pub fn elf(&self) -> &[u8] {
        &self.elf
    }

    /// Whether it was a bzImage, which can be started in another way too.
    pub fn is_bzimage(&self) -> bool {
        self.is_bzimage
    }

    /// Whether the ELF file can be started directly (`CONFIG_PVH`).
    pub fn has_pvh(&self) -> bool {
        has_pvh(&self.elf).unwrap_or(false)
    }

    /// The configuration that is embedded in it, if one is (`CONFIG_IKCONFIG`).
    pub fn configuration(&self) -> Option<KernelConfiguration> {
        let begin = memmem::find(&self.elf, b"IKCFG_ST\x1f\x8b")? + 8;
        let length = memmem::find(&self.elf[begin..], b"IKCFG_ED")?;
        let mut text = String::new();
        let stream = decompress(&self.elf[begin..begin + length]).ok()?;
        stream.take(LARGEST).read_to_string(&mut text).ok()?;
        Some(KernelConfiguration::of(&text))
    }
}

/// Refuses what is not the absolute path of a readable, non-empty regular file of a size that kernels have.
///
/// # Errors
/// If it is not.
pub fn check_file(path: &Path) -> Result<(), ImageError> {
    let failed = |source| ImageError::Read {
        path: path.to_owned(),
        source,
    };
    let unusable = |reason: &str| ImageError::Unusable {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    if !path.is_absolute() {
        return Err(unusable("the path is not absolute"));
    }
    let about = fs::metadata(path).map_err(failed)?;
    if !about.is_file() {
        return Err(unusable("it is not a regular file"));
    }
    match about.len() {
        0 => Err(unusable("it is empty")),
        length if length > LARGEST => Err(unusable("it is larger than any kernel")),
        _ => fs::File::open(path).map(drop).map_err(failed),
    }
}

/// The ELF file that a bzImage carries.
fn payload(bzimage: &[u8]) -> Result<Vec<u8>, String> {
    let cut_off = || "it is cut off".to_owned();
    let set_up_sectors = match bzimage[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let offset = word(bzimage, 0x248).ok_or_else(cut_off)?;
    let length = word(bzimage, 0x24c).ok_or_else(cut_off)?;
    let begin = (set_up_sectors + 1) * 512 + offset;
    let end = begin.checked_add(length).ok_or_else(cut_off)?;
    let payload = bzimage.get(begin..end).ok_or_else(cut_off)?;
    // The last four bytes are the unpacked size, and no part of the stream; gzip's own are these.
    let size = word(payload, length.saturating_sub(4)).ok_or_else(cut_off)?;
    let stream = match Compression::of(payload) {
        Compression::None => {
            return Err(
                "what it holds is compressed in a way that is not known here (known are gzip, xz, lz4 and zstd)"
                    .to_owned(),
            );
        }
        Compression::Gzip => payload,
        _ => &payload[..length - 4],
    };
    let mut elf = Vec::new();
    let unpacked = decompress(stream).and_then(|it| it.take(LARGEST).read_to_end(&mut elf));
    unpacked.map_err(|error| format!("unpacking it: {error}"))?;
    match elf.len() == size {
        true => Ok(elf),
        false => Err("it does not unpack whole".to_owned()),
    }
}

/// From the banner: "Linux version RELEASE (…".
fn release(elf: &[u8]) -> Option<String> {
    let words = b"Linux version ";
    memmem::find_iter(elf, words).find_map(|at| {
        let rest = &elf[at + words.len()..];
        let end = rest.iter().take(128).position(|&byte| byte == b' ')?;
        let release = std::str::from_utf8(&rest[..end]).ok()?;
        let is_release = release.starts_with(|it: char| it.is_ascii_digit())
            && release.chars().all(|it| it.is_ascii_graphic() && it != '/');
        is_release.then(|| release.to_owned())
    })
}

/// What a program header (elf(5)) says: its kind, and where in the file its bytes are.
struct Segment {
    kind: usize,
    begin: usize,
    length: usize,
}

/// All program headers, as far as they are there.
fn segments(elf: &[u8]) -> impl Iterator<Item = Option<Segment>> {
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| {
        let bytes = elf.get(at..at.checked_add(8)?)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let (size, count) = (half(54).unwrap_or(0), half(56).unwrap_or(0));
    (0..usize::from(count)).map(move |number| {
        let header = long(32)?.checked_add(number * usize::from(size))?;
        Some(Segment {
            kind: word(elf, header)?,
            begin: long(header.checked_add(8)?)?,
            length: long(header.checked_add(32)?)?,
        })
    })
}

/// Whether all is there that the program headers speak of.
fn is_whole(elf: &[u8]) -> bool {
    segments(elf).all(|segment| {
        let end = segment.and_then(|it| it.begin.checked_add(it.length));
        end.is_some_and(|end| end <= elf.len())
    })
}

/// Looks through the notes of the program headers (elf(5), "Notes").
fn has_pvh(elf: &[u8]) -> Option<bool> {
    const PT_NOTE: usize = 4;
    for segment in segments(elf) {
        let Segment {
            kind,
            begin,
            length,
        } = segment?;
        if kind != PT_NOTE {
            continue;
        }
        let mut notes = elf.get(begin..begin.checked_add(length)?)?;
        while let (Some(name), Some(description), Some(kind)) =
            (word(notes, 0), word(notes, 4), word(notes, 8))
        {
            let owner = notes.get(12..12 + name)?;
            if owner == NOTE_OWNER && kind as u32 == PHYS32_ENTRY {
                return Some(true);
            }
            let next = 12 + name.next_multiple_of(4) + description.next_multiple_of(4);
            notes = notes.get(next..).unwrap_or_default();
        }
    }
    Some(false)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(u32::from_le_bytes(bytes) as usize)
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;

    use super::*;

    /// As much of an ELF file as is looked at: a note, a banner, and a configuration.
    pub fn elf(configuration: Option<&str>, has_pvh: bool) -> Vec<u8> {
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
    fn what_is_no_kernel_is_refused() {
        let mut other = elf(None, true);
        other[18] = 183;
        let mut cut_off = vec![0; 0x400];
        cut_off[0x202..0x206].copy_from_slice(b"HdrS");
        cut_off[0x24c] = 0xff;
        for wrong in [&b""[..], &[0; 0x1000], b"\x7fELF", &other, &cut_off] {
            assert!(Image::of(wrong.to_vec()).is_err());
        }
        let mut short = elf(None, true);
        short.truncate(130);
        assert_eq!(Image::of(short).unwrap_err(), "it is cut off");
        assert!(Image::of(b"\x7fELF\x02\x01".repeat(40)).is_err());
    }

    #[test]
    fn a_kernel_says_what_it_is() {
        let image = Image::of(elf(Some("CONFIG_PVH=y\n"), true)).unwrap();
        assert_eq!(image.release(), "6.12.9-test");
        assert!(image.has_pvh() && !image.is_bzimage());
        assert!(image.configuration().unwrap().is_set("PVH"));
        let image = Image::of(elf(None, false)).unwrap();
        assert!(!image.has_pvh() && image.configuration().is_none());
    }

    #[test]
    fn a_kernel_in_a_bzimage_is_found_however_it_is_compressed() {
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
            let image = Image::of(image).unwrap();
            assert!(image.is_bzimage() && image.elf() == elf);
        }
        let lie = Image::of(bzimage(&zstd, Some(7))).unwrap_err();
        assert!(lie.contains("whole"), "{lie}");
        let bzip2 = Image::of(bzimage(b"BZh91AY&SY", size)).unwrap_err();
        assert!(bzip2.contains("not known"), "{bzip2}");
    }
}
