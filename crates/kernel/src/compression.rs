//! What kernels, their modules and archives are compressed with.

use std::io::{self, BufRead, Read};

/// A compression, known by a stream's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// RFC 1952.
    Gzip,
    /// The .xz file format, 1.2.
    Xz,
    /// RFC 8878.
    Zstd,
    /// LZ4's legacy frame (lz4_Frame_format.md), which the kernel's build makes.
    Lz4,
}

impl Compression {
    /// The compression of a stream that begins with these bytes.
    pub fn of(begin: &[u8]) -> Compression {
        match begin {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [0x02, 0x21, 0x4c, 0x18, ..] => Compression::Lz4,
            _ => Compression::None,
        }
    }
}

/// What a stream holds, decompressed if it is compressed.
///
/// # Errors
/// If its beginning cannot be read.
pub fn decompress<'a>(mut stream: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let begin = stream.fill_buf()?;
    Ok(match Compression::of(begin) {
        Compression::None => Box::new(stream),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        Compression::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(stream)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(stream)?),
        Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(stream)),
    })
}
