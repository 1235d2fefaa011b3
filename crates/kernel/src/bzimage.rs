//! bzImages (Linux, Documentation/arch/x86/boot.rst, "The real-mode kernel header", protocol 2.08
//! and later).

use std::io::Read;

use crate::{
    compression::{Compression, decompress},
    elf::u32_at,
    image_error::{InvalidKernel, MAX_SIZE},
};

/// Offsets of fields of the header, by the kernel's names.
const SETUP_SECTS: usize = 0x1f1;
const HEADER: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

const SECTOR: usize = 512;

/// Whether these are the bytes of a bzImage.
pub(crate) fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(HEADER..HEADER + 4) == Some(b"HdrS")
}

/// Decompresses the payload of a bzImage: the kernel's ELF file.
pub(crate) fn payload(bzimage: &[u8]) -> Result<Vec<u8>, InvalidKernel> {
    let field = |at| u32_at(bzimage, at).map(|value| value as usize);
    let payload = || {
        // For historical reasons 0 means 4.
        let setup_sectors = match bzimage.get(SETUP_SECTS)? {
            0 => 4,
            sectors => usize::from(*sectors),
        };
        let start = (setup_sectors + 1) * SECTOR + field(PAYLOAD_OFFSET)?;
        bzimage.get(start..start.checked_add(field(PAYLOAD_LENGTH)?)?)
    };
    let payload = payload().ok_or(InvalidKernel::Truncated)?;
    // The payload ends with its decompressed size, which is not part of the compressed stream; only
    // gzip streams end with it by themselves.
    let size_at = payload.len().saturating_sub(4);
    let size = u32_at(payload, size_at).ok_or(InvalidKernel::Truncated)?;
    let stream = match Compression::detect(payload) {
        Compression::None => return Err(InvalidKernel::UnknownCompression),
        Compression::Gzip => payload,
        _ => &payload[..size_at],
    };
    let mut elf = Vec::new();
    decompress(stream)
        .and_then(|stream| stream.take(MAX_SIZE).read_to_end(&mut elf))
        .map_err(InvalidKernel::Decompress)?;
    if elf.len() == size as usize {
        Ok(elf)
    } else {
        Err(InvalidKernel::WrongSize)
    }
}
