//! The stream of members and their contents.

use std::io::{self, ErrorKind, Read};

use container_ext4::SparseRead;

use super::{
    Member, MemberKind, MemberTime, TarError,
    header::{BLOCK, Header, number},
    pax::{Pax, parse_u64},
    sparse::{Segment, SparseMap, check_segment_count, segments_from_numbers},
};
use crate::fill::fill;

/// Limit in bytes on the extended headers of one member, which are read into memory. The same limit
/// applies to all global headers together.
const LARGEST_HEADER: u64 = 1 << 20;

/// Reads an archive from a stream.
pub(crate) struct TarReader<R> {
    source: R,
    /// Bytes of the current member that are still to be read, without padding.
    stored: u64,
    /// Padding of the current member's last block.
    padding: u64,
    map: SparseMap,
    global: Pax,
    global_bytes: u64,
    is_over: bool,
}

/// Extended headers of the next member.
#[derive(Default)]
struct Extensions {
    long_path: Option<Vec<u8>>,
    long_link_path: Option<Vec<u8>>,
    pax: Option<Pax>,
    bytes: u64,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(source: R) -> TarReader<R> {
        TarReader {
            source,
            stored: 0,
            padding: 0,
            map: SparseMap {
                segments: Vec::new(),
                size: 0,
            },
            global: Pax::default(),
            global_bytes: 0,
            is_over: false,
        }
    }

    /// Reads the headers of the next member. Its contents can be read until the next call.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return match extensions.bytes {
                    0 => Ok(None),
                    _ => Err(TarError::Truncated("a member")),
                };
            };
            match header.kind() {
                b'L' => {
                    extensions.long_path = Some(self.long_name(&header, &mut extensions.bytes)?)
                }
                b'K' => {
                    let name = self.long_name(&header, &mut extensions.bytes)?;
                    extensions.long_link_path = Some(name);
                }
                b'x' => {
                    let records = self.extension(&header, &mut extensions.bytes)?;
                    extensions.pax.get_or_insert_default().add(&records)?;
                }
                b'g' => {
                    let mut bytes = self.global_bytes;
                    let records = self.extension(&header, &mut bytes)?;
                    self.global_bytes = bytes;
                    self.global.add(&records)?;
                    // No program writes global attributes, and they would be copied to each member.
                    self.global.xattrs.clear();
                }
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    /// Returns the bytes of the current member that are still to be read.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    pub(crate) fn source(&self) -> &R {
        &self.source
    }

    /// Returns a reader of the current member's contents, with holes as zeroes.
    pub(crate) fn contents(&mut self) -> MemberContents<'_, R> {
        let map = std::mem::replace(
            &mut self.map,
            SparseMap {
                segments: Vec::new(),
                size: 0,
            },
        );
        MemberContents {
            archive: self,
            segments: map.segments.into_iter(),
            segment: None,
            position: 0,
            size: map.size,
        }
    }

    /// Reads the bytes after the archive's end, because the layer's digest includes them.
    pub(crate) fn drain(mut self) -> Result<(), TarError> {
        io::copy(&mut self.source, &mut io::sink())?;
        Ok(())
    }

    /// Returns the source, positioned after the archive's end.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.is_over {
            return Ok(None);
        }
        let header = match self.block("a header")? {
            Some(block) => Header::new(block)?,
            None => None,
        };
        if header.is_none() {
            self.is_over = true;
            self.check_end()?;
        }
        Ok(header)
    }

    /// Checks that a second block of zeroes follows. Members after a single block are read by some
    /// programs and ignored by others, so such an archive is refused.
    fn check_end(&mut self) -> Result<(), TarError> {
        match self.block("its end marker")? {
            Some(block) if block != [0; BLOCK] => {
                Err(TarError::Malformed("data after a single block of zeroes"))
            }
            _ => Ok(()),
        }
    }

    /// Reads a block; `None` at the end of the source.
    fn block(&mut self, what: &'static str) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        match fill(&mut self.source, &mut block)? {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(TarError::Truncated(what)),
        }
    }

    fn skip(&mut self) -> Result<(), TarError> {
        let left = self.stored.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.source).take(left), &mut io::sink())?;
        if skipped < left {
            return Err(TarError::Truncated("a file"));
        }
        self.set_stored(0);
        Ok(())
    }

    /// Sets the number of bytes that follow, and the padding of their last block.
    fn set_stored(&mut self, stored: u64) {
        self.stored = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
    }

    /// Reads the contents of an extended header. `total` counts the bytes of such headers.
    fn extension(&mut self, header: &Header, total: &mut u64) -> Result<Vec<u8>, TarError> {
        let size = header.size()?;
        // An empty header counts too, or an endless series of them would not be refused.
        *total = total.saturating_add(size).saturating_add(1);
        if *total > LARGEST_HEADER {
            return Err(TarError::HeaderTooLarge(*total));
        }
        let mut bytes = Vec::new();
        (&mut self.source).take(size).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size {
            return Err(TarError::Truncated("a header"));
        }
        self.set_stored(size);
        self.stored = 0;
        Ok(bytes)
    }

    fn long_name(&mut self, header: &Header, total: &mut u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.extension(header, total)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member, TarError> {
        let pax = extensions
            .pax
            .unwrap_or_default()
            .with_defaults(&self.global);
        let sparse_name = pax.sparse.name.clone();
        let path = sparse_name.or(pax.path.clone()).or(extensions.long_path);
        let path = path.unwrap_or_else(|| header.path());
        let link_path = || {
            let link_path = pax.link_path.clone().or(extensions.long_link_path.clone());
            link_path.unwrap_or_else(|| header.link_path())
        };
        let kind = match header.kind() {
            // Before ustar, a directory was a file whose name ends with a slash.
            b'0' | 0 if path.ends_with(b"/") => MemberKind::Directory,
            b'0' | 0 | b'7' | b'S' => MemberKind::File(0),
            b'1' => MemberKind::HardLink(link_path()),
            b'2' => MemberKind::Symlink(link_path()),
            b'3' | b'4' => {
                let (major, minor) = header.device()?;
                if header.kind() == b'3' {
                    MemberKind::CharDevice { major, minor }
                } else {
                    MemberKind::BlockDevice { major, minor }
                }
            }
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            unknown => {
                return Err(TarError::UnknownKind {
                    path: String::from_utf8_lossy(&path).escape_debug().to_string(),
                    kind: char::from(unknown),
                });
            }
        };
        let kind = match kind {
            MemberKind::File(_) => {
                let stored = pax.size.map_or_else(|| header.size(), Ok)?;
                self.set_stored(stored);
                self.map = self.file_map(header, &pax, stored)?;
                MemberKind::File(self.map.size)
            }
            // The size field of other types is ignored, as in Go's and GNU's tar.
            other => {
                self.set_stored(0);
                other
            }
        };
        Ok(Member {
            path,
            kind,
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => MemberTime {
                    seconds: header.mtime()?,
                    nanoseconds: 0,
                },
            },
            xattrs: pax.xattrs,
        })
    }

    fn file_map(&mut self, header: &Header, pax: &Pax, stored: u64) -> Result<SparseMap, TarError> {
        let sparse = &pax.sparse;
        let pax_size = sparse
            .size
            .ok_or(TarError::Malformed("a sparse file has no size"));
        if header.kind() == b'S' {
            return self.gnu_map(header, stored);
        }
        match (sparse.major, sparse.minor) {
            (Some(1), Some(0)) => {
                let segments = self.map_before_contents()?;
                SparseMap::new(segments, pax_size?, self.stored)
            }
            (None | Some(0), _) if sparse.is_0 => {
                SparseMap::new(segments_from_numbers(&sparse.map)?, pax_size?, stored)
            }
            (None, None) => {
                let whole = Segment {
                    offset: 0,
                    length: stored,
                };
                SparseMap::new(vec![whole], stored, stored)
            }
            _ => Err(TarError::Malformed("a sparse file has an unknown format")),
        }
    }

    /// Reads the map of GNU's oldest format: segments in the header and in blocks after it.
    fn gnu_map(&mut self, header: &Header, stored: u64) -> Result<SparseMap, TarError> {
        let (fields, mut has_more, size) = header.gnu_sparse()?;
        let mut segments = Vec::new();
        gnu_segments(fields, &mut segments)?;
        while has_more {
            let block = self.block("a sparse map")?;
            let block = block.ok_or(TarError::Truncated("a sparse map"))?;
            gnu_segments(&block[..504], &mut segments)?;
            check_segment_count(segments.len())?;
            has_more = block[504] != 0;
        }
        SparseMap::new(segments, size, stored)
    }

    /// Reads the map of PAX format 1.0: lines of decimal numbers before the contents, padded to a
    /// block. The first is the number of segments.
    fn map_before_contents(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut lines = NumberLines {
            block: [0; BLOCK],
            at: BLOCK,
        };
        let count = lines.number(self)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        check_segment_count(count)?;
        let mut segments = Vec::new();
        for _ in 0..count {
            segments.push(Segment {
                offset: lines.number(self)?,
                length: lines.number(self)?,
            });
        }
        Ok(segments)
    }
}

/// Reads lines of numbers, block by block.
struct NumberLines {
    block: [u8; BLOCK],
    at: usize,
}

impl NumberLines {
    fn number<R: Read>(&mut self, archive: &mut TarReader<R>) -> Result<u64, TarError> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                let truncated = || TarError::Truncated("a sparse map");
                let left = archive.stored.checked_sub(BLOCK as u64);
                archive.stored = left.ok_or_else(truncated)?;
                let block = archive.block("a sparse map")?;
                self.block = block.ok_or_else(truncated)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return parse_u64(&digits),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(TarError::Malformed("invalid sparse map")),
            }
        }
    }
}

/// Parses GNU's segments: pairs of two twelve-byte numbers, ended by an empty one.
fn gnu_segments(fields: &[u8], segments: &mut Vec<Segment>) -> Result<(), TarError> {
    let negative = |_| TarError::Malformed("invalid sparse map");
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 || pair[12] == 0 {
            break;
        }
        segments.push(Segment {
            offset: u64::try_from(number(&pair[..12])?).map_err(negative)?,
            length: u64::try_from(number(&pair[12..])?).map_err(negative)?,
        });
    }
    Ok(())
}

/// Reader of a member's contents.
pub(crate) struct MemberContents<'a, R> {
    archive: &'a mut TarReader<R>,
    segments: std::vec::IntoIter<Segment>,
    /// Rest of the current segment, or the next one.
    segment: Option<Segment>,
    position: u64,
    size: u64,
}

impl<R> MemberContents<'_, R> {
    /// Returns the length of the hole at the current position, possibly 0.
    fn hole_length(&mut self) -> u64 {
        while self.segment.is_none_or(|segment| segment.length == 0) {
            self.segment = self.segments.next();
            if self.segment.is_none() {
                break;
            }
        }
        let next = self.segment.map_or(self.size, |segment| segment.offset);
        next - self.position
    }
}

impl<R: Read> SparseRead for MemberContents<'_, R> {
    fn skip_hole(&mut self, unit: u64) -> u64 {
        let hole = self.hole_length();
        let skipped = hole - hole % unit;
        self.position += skipped;
        skipped
    }
}

impl<R: Read> Read for MemberContents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let hole = self.hole_length();
        if hole > 0 {
            let count = at_most(buffer.len(), hole);
            buffer[..count].fill(0);
            self.position += count as u64;
            return Ok(count);
        }
        let Some(segment) = &mut self.segment else {
            return Ok(0);
        };
        let wanted = at_most(buffer.len(), segment.length);
        let count = self.archive.source.read(&mut buffer[..wanted])?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the archive ends in the middle of the file",
            ));
        }
        self.position += count as u64;
        self.archive.stored -= count as u64;
        segment.offset += count as u64;
        segment.length -= count as u64;
        Ok(count)
    }
}

fn at_most(buffer: usize, limit: u64) -> usize {
    usize::try_from(limit).map_or(buffer, |limit| limit.min(buffer))
}

#[cfg(test)]
mod tests;
