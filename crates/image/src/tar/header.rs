//! Header blocks: the 512 bytes before each member (POSIX.1-2017, pax, "ustar Interchange Format").

use std::ops::Range;

use super::TarError;

/// Size of a block in bytes. Headers and contents are padded to it.
pub(super) const BLOCK: usize = 512;

/// A header block with a valid checksum.
pub(super) struct Header([u8; BLOCK]);

/// Variant of the header, which decides about the fields after byte 257.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Checks a header block. Returns `None` for a block of zeroes, which ends an archive.
    pub(super) fn new(block: [u8; BLOCK]) -> Result<Option<Header>, TarError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header(block);
        let written = header.number(148..156)?;
        // The checksum is computed with its own field set to spaces.
        let is_checksum = |at: usize| (148..156).contains(&at);
        let bytes = || {
            let bytes = header.0.iter().enumerate();
            bytes.map(|(at, byte)| if is_checksum(at) { b' ' } else { *byte })
        };
        let unsigned: i64 = bytes().map(i64::from).sum();
        // Some historic programs added up signed bytes.
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        if written == unsigned || written == signed {
            Ok(Some(header))
        } else {
            Err(TarError::Malformed("wrong checksum in a header"))
        }
    }

    fn format(&self) -> Format {
        match (&self.0[257..265], &self.0[508..512]) {
            (b"ustar  \0", _) => Format::Gnu,
            (magic, b"tar\0") if magic.starts_with(b"ustar\0") => Format::Star,
            (magic, _) if magic.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::V7,
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let prefix = match self.format() {
            Format::Ustar => text(&self.0[345..500]),
            Format::Star => text(&self.0[345..476]),
            Format::V7 | Format::Gnu => b"",
        };
        let name = text(&self.0[..100]);
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(super) fn link_path(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    /// Returns the permission bits, 0–0o7777.
    pub(super) fn mode(&self) -> Result<u32, TarError> {
        // Some writers set the bits of the file type too.
        Ok((self.number(100..108)? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u32, TarError> {
        self.u32(108..116)
    }

    pub(super) fn gid(&self) -> Result<u32, TarError> {
        self.u32(116..124)
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        let size = self.number(124..136)?;
        u64::try_from(size).map_err(|_| TarError::Malformed("negative size"))
    }

    pub(super) fn mtime(&self) -> Result<i64, TarError> {
        self.number(136..148)
    }

    pub(super) fn device(&self) -> Result<(u32, u32), TarError> {
        if self.format() == Format::V7 {
            return Ok((0, 0));
        }
        Ok((self.u32(329..337)?, self.u32(337..345)?))
    }

    /// Reads the fields of GNU's sparse format: the encoded segments, whether a block with more
    /// segments follows, and the size including holes.
    pub(super) fn gnu_sparse(&self) -> Result<(&[u8], bool, u64), TarError> {
        let size = self.number(483..495)?;
        let size = u64::try_from(size).map_err(|_| TarError::Malformed("negative size"))?;
        Ok((&self.0[386..482], self.0[482] != 0, size))
    }

    fn u32(&self, field: Range<usize>) -> Result<u32, TarError> {
        let number = self.number(field)?;
        u32::try_from(number).map_err(|_| TarError::Malformed("a number is out of range"))
    }

    fn number(&self, field: Range<usize>) -> Result<i64, TarError> {
        number(&self.0[field])
    }
}

/// Returns a field up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Parses a number: octal digits, or GNU's binary form (first bit set), which is big-endian in
/// two's complement.
pub(super) fn number(field: &[u8]) -> Result<i64, TarError> {
    let out_of_range = || TarError::Malformed("a number is out of range");
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            let is_negative = first & 0x40 != 0;
            let start = i128::from(first & 0x3f) - if is_negative { 64 } else { 0 };
            let mut value = start;
            for byte in rest {
                value = value
                    .checked_mul(256)
                    .and_then(|value| value.checked_add(i128::from(*byte)))
                    .ok_or_else(out_of_range)?;
            }
            i64::try_from(value).map_err(|_| out_of_range())
        }
        _ => {
            let digits = text(field).trim_ascii();
            let mut value = 0i64;
            for digit in digits {
                let digit = match digit {
                    b'0'..=b'7' => i64::from(digit - b'0'),
                    _ => return Err(TarError::Malformed("a number is not octal")),
                };
                value = value
                    .checked_mul(8)
                    .and_then(|value| value.checked_add(digit))
                    .ok_or_else(out_of_range)?;
            }
            Ok(value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let read = |field: &[u8]| number(field).unwrap();
        assert_eq!(read(b"0000644\0"), 0o644);
        assert_eq!(read(b"   644 \0"), 0o644);
        assert_eq!(read(b"\0\0\0\0"), 0);
        assert_eq!(read(b"77777777777\0"), 0o77777777777);
        assert_eq!(read(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), 8 << 30);
        assert_eq!(read(&[0xff; 12]), -1);
        assert!(number(b"12x").is_err());
        assert!(number(b"-1").is_err());
        assert!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
        assert!(number(&[b'7'; 30]).is_err());
    }
}
