//! Members in order, and their contents.

use std::io::{self, ErrorKind, Read};

use container_ext4::Contents;

use super::{
    Kind, Member, TarError, Time,
    header::{BLOCK, Header, number},
    pax::{Pax, decimal},
    sparse::{Map, Segment, ensure_few, pairs},
};

/// Headers that describe a member are read into memory; this much of them at most, and as much
/// of those that describe all members.
const LARGEST_HEADER: u64 = 1 << 20;

/// An archive that is read as it comes.
pub(crate) struct Archive<R> {
    source: R,
    /// Bytes of the current member that were not read yet, without the filling of its block.
    stored: u64,
    filling: u64,
    map: Map,
    global: Pax,
    global_bytes: u64,
    is_over: bool,
}

/// What other headers say about the next member.
#[derive(Default)]
struct Described {
    long_path: Option<Vec<u8>>,
    long_link_path: Option<Vec<u8>>,
    pax: Option<Pax>,
    bytes: u64,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(source: R) -> Archive<R> {
        Archive {
            source,
            stored: 0,
            filling: 0,
            map: Map {
                segments: Vec::new(),
                size: 0,
            },
            global: Pax::default(),
            global_bytes: 0,
            is_over: false,
        }
    }

    /// The next member; its contents can be read until the one after it is asked for.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut described = Described::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return match described.bytes {
                    0 => Ok(None),
                    _ => Err(TarError::Truncated("a member")),
                };
            };
            match header.kind() {
                b'L' => described.long_path = Some(self.long_name(&header, &mut described.bytes)?),
                b'K' => {
                    let name = self.long_name(&header, &mut described.bytes)?;
                    described.long_link_path = Some(name);
                }
                b'x' => {
                    let records = self.small(&header, &mut described.bytes)?;
                    described.pax.get_or_insert_default().add(&records)?;
                }
                b'g' => {
                    let mut bytes = self.global_bytes;
                    let records = self.small(&header, &mut bytes)?;
                    self.global_bytes = bytes;
                    self.global.add(&records)?;
                    // No program writes them for all members, and they would be kept for each.
                    self.global.xattrs.clear();
                }
                _ => return self.member(&header, described).map(Some),
            }
        }
    }

    /// Bytes of the current member that are yet to be read.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    /// What the archive is read from.
    pub(crate) fn source(&self) -> &R {
        &self.source
    }

    /// The current member's contents, holes as zeroes.
    pub(crate) fn content(&mut self) -> Content<'_, R> {
        let map = std::mem::replace(
            &mut self.map,
            Map {
                segments: Vec::new(),
                size: 0,
            },
        );
        Content {
            archive: self,
            segments: map.segments.into_iter(),
            segment: None,
            position: 0,
            size: map.size,
        }
    }

    /// Reads to the end what stands behind the archive: it belongs to the layer's digest.
    pub(crate) fn drain(mut self) -> Result<(), TarError> {
        io::copy(&mut self.source, &mut io::sink())?;
        Ok(())
    }

    /// What the archive is read from, after the last byte that was.
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
            self.ensure_end()?;
        }
        Ok(header)
    }

    /// Two blocks of zeroes end an archive. If something stands behind one, some programs read it
    /// and some do not.
    fn ensure_end(&mut self) -> Result<(), TarError> {
        match self.block("its end")? {
            Some(block) if block != [0; BLOCK] => Err(TarError::Malformed(
                "something stands behind a single block of zeroes",
            )),
            _ => Ok(()),
        }
    }

    /// None at the end.
    fn block(&mut self, what: &'static str) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated(what)),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(block))
    }

    fn skip(&mut self) -> Result<(), TarError> {
        let left = self.stored.saturating_add(self.filling);
        let skipped = io::copy(&mut (&mut self.source).take(left), &mut io::sink())?;
        if skipped < left {
            return Err(TarError::Truncated("a file"));
        }
        self.expect(0);
        Ok(())
    }

    /// What comes next is that many bytes and the filling of their last block.
    fn expect(&mut self, stored: u64) {
        self.stored = stored;
        self.filling = stored.wrapping_neg() % BLOCK as u64;
    }

    /// The contents of a header that describes another. `before` is what came of such headers,
    /// and counts this one.
    fn small(&mut self, header: &Header, before: &mut u64) -> Result<Vec<u8>, TarError> {
        let size = header.size()?;
        // An empty one counts too.
        *before = before.saturating_add(size).saturating_add(1);
        if *before > LARGEST_HEADER {
            return Err(TarError::HeaderTooLarge(*before));
        }
        let mut bytes = Vec::new();
        (&mut self.source).take(size).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size {
            return Err(TarError::Truncated("a header"));
        }
        self.expect(size);
        self.stored = 0;
        Ok(bytes)
    }

    fn long_name(&mut self, header: &Header, before: &mut u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.small(header, before)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn member(&mut self, header: &Header, described: Described) -> Result<Member, TarError> {
        let pax = described.pax.unwrap_or_default().over(&self.global);
        let sparse_name = pax.sparse.name.clone();
        let path = sparse_name.or(pax.path.clone()).or(described.long_path);
        let path = path.unwrap_or_else(|| header.path());
        let link_path = || {
            let link_path = pax.link_path.clone().or(described.long_link_path.clone());
            link_path.unwrap_or_else(|| header.link_path())
        };
        let kind = match header.kind() {
            // Before ustar a directory was a file whose name ends in a slash.
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File(0),
            b'1' => Kind::HardLink(link_path()),
            b'2' => Kind::Symlink(link_path()),
            b'3' | b'4' => {
                let (major, minor) = header.device()?;
                if header.kind() == b'3' {
                    Kind::CharDevice { major, minor }
                } else {
                    Kind::BlockDevice { major, minor }
                }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            unknown => {
                return Err(TarError::UnknownKind {
                    path: String::from_utf8_lossy(&path).escape_debug().to_string(),
                    kind: char::from(unknown),
                });
            }
        };
        let kind = match kind {
            Kind::File(_) => {
                let stored = pax.size.map_or_else(|| header.size(), Ok)?;
                self.expect(stored);
                self.map = self.file_map(header, &pax, stored)?;
                Kind::File(self.map.size)
            }
            // Whatever size these claim, nothing is stored for them; so it is in Go's and in
            // GNU's tar.
            other => {
                self.expect(0);
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
                None => Time {
                    seconds: header.mtime()?,
                    nanoseconds: 0,
                },
            },
            xattrs: pax.xattrs,
        })
    }

    fn file_map(&mut self, header: &Header, pax: &Pax, stored: u64) -> Result<Map, TarError> {
        let sparse = &pax.sparse;
        let pax_size = sparse
            .size
            .ok_or(TarError::Malformed("a file with holes has no size"));
        if header.kind() == b'S' {
            return self.gnu_map(header, stored);
        }
        match (sparse.major, sparse.minor) {
            (Some(1), Some(0)) => {
                let segments = self.map_before_contents()?;
                Map::new(segments, pax_size?, self.stored)
            }
            (None | Some(0), _) if sparse.is_0 => Map::new(pairs(&sparse.map)?, pax_size?, stored),
            (None, None) => {
                let whole = Segment {
                    offset: 0,
                    length: stored,
                };
                Map::new(vec![whole], stored, stored)
            }
            _ => Err(TarError::Malformed(
                "a file with holes is of an unknown format",
            )),
        }
    }

    /// GNU's oldest format: segments in the header and in blocks after it.
    fn gnu_map(&mut self, header: &Header, stored: u64) -> Result<Map, TarError> {
        let (fields, mut has_more, size) = header.gnu_sparse()?;
        let mut segments = Vec::new();
        gnu_segments(fields, &mut segments)?;
        while has_more {
            let block = self.block("a list of holes")?;
            let block = block.ok_or(TarError::Truncated("a list of holes"))?;
            gnu_segments(&block[..504], &mut segments)?;
            ensure_few(segments.len())?;
            has_more = block[504] != 0;
        }
        Map::new(segments, size, stored)
    }

    /// PAX 1.0: before the contents stand lines of decimal numbers, how many segments first,
    /// filled up to a block.
    fn map_before_contents(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut lines = Lines {
            block: [0; BLOCK],
            at: BLOCK,
        };
        let count = lines.number(self)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        ensure_few(count)?;
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

struct Lines {
    block: [u8; BLOCK],
    at: usize,
}

impl Lines {
    fn number<R: Read>(&mut self, archive: &mut Archive<R>) -> Result<u64, TarError> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                let truncated = || TarError::Truncated("a list of holes");
                let left = archive.stored.checked_sub(BLOCK as u64);
                archive.stored = left.ok_or_else(truncated)?;
                let block = archive.block("a list of holes")?;
                self.block = block.ok_or_else(truncated)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(TarError::Malformed("a list of holes in it makes no sense")),
            }
        }
    }
}

/// Pairs of two twelve-digit numbers; an empty one ends them.
fn gnu_segments(fields: &[u8], segments: &mut Vec<Segment>) -> Result<(), TarError> {
    let negative = |_| TarError::Malformed("a list of holes in it makes no sense");
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

/// The contents of a member.
pub(crate) struct Content<'a, R> {
    archive: &'a mut Archive<R>,
    segments: std::vec::IntoIter<Segment>,
    /// What is left of the one that is being read or waited for.
    segment: Option<Segment>,
    position: u64,
    size: u64,
}

impl<R> Content<'_, R> {
    /// How long the hole is that comes next.
    fn hole(&mut self) -> u64 {
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

impl<R: Read> Contents for Content<'_, R> {
    fn skip_hole(&mut self, unit: u64) -> u64 {
        let hole = self.hole();
        let skipped = hole - hole % unit;
        self.position += skipped;
        skipped
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let hole = self.hole();
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

/// No larger than a buffer, so it fits.
fn at_most(buffer: usize, limit: u64) -> usize {
    usize::try_from(limit).map_or(buffer, |limit| limit.min(buffer))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
