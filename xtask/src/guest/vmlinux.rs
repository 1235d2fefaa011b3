//! The uncompressed kernel out of a bzImage (Linux, Documentation/arch/x86/boot.rst, "The
//! real-mode kernel header", protocol 2.08 on).

use std::io::Read;

use anyhow::{Result, bail, ensure};
use lz4_flex::frame::FrameDecoder;

/// The LZ4 legacy frame's magic number (lz4_Frame_format.md, "Legacy frame").
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// Unpacks the ELF image that a bzImage carries, compressed with LZ4.
pub fn unpack(bzimage: &[u8]) -> Result<Vec<u8>> {
    ensure!(
        bzimage.get(0x202..0x206) == Some(b"HdrS"),
        "it is not a bzImage"
    );
    let set_up_sectors = match bzimage[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let offset = word(bzimage, 0x248)?;
    let length = word(bzimage, 0x24c)?;
    let begin = (set_up_sectors + 1) * 512 + offset;
    let Some(payload) = bzimage.get(begin..begin + length) else {
        bail!("it is cut off");
    };
    ensure!(
        payload.starts_with(&LZ4_LEGACY),
        "its kernel is not compressed with LZ4"
    );
    // The last four bytes are the unpacked size, and no part of the frame.
    let (frame, size) = payload.split_at(length - 4);
    let size = word(size, 0)?;
    let mut kernel = Vec::with_capacity(size);
    FrameDecoder::new(frame).read_to_end(&mut kernel)?;
    ensure!(kernel.len() == size, "its kernel does not unpack whole");
    ensure!(kernel.starts_with(b"\x7fELF"), "its kernel is no ELF file");
    Ok(kernel)
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d]) as usize),
        _ => bail!("it is cut off"),
    }
}

#[cfg(test)]
mod tests {
    use super::unpack;

    #[test]
    fn what_is_no_kernel_is_refused() {
        for wrong in [&b""[..], &[0; 0x1000], b"\x7fELF"] {
            assert!(unpack(wrong).is_err());
        }
        let mut cut_off = vec![0; 0x400];
        cut_off[0x202..0x206].copy_from_slice(b"HdrS");
        cut_off[0x24c] = 0xff;
        assert!(unpack(&cut_off).is_err());
    }
}
