//! Files with holes: which bytes are in the archive, and where in the file they belong.

use super::TarError;

/// Segments of one file that are taken: 16 MiB of list.
const MOST: usize = 1 << 20;

/// Bytes of a file that are in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Where the bytes belong: in order, without overlap, within the size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) segments: Vec<Segment>,
    pub(super) size: u64,
}

impl Map {
    /// A map for a member that has this many bytes in the archive.
    pub(super) fn new(segments: Vec<Segment>, size: u64, stored: u64) -> Result<Map, TarError> {
        let mut end = 0u64;
        let mut total = 0u64;
        for segment in &segments {
            let is_behind = segment.offset >= end;
            let next = segment.offset.checked_add(segment.length);
            match next.filter(|next| is_behind && *next <= size) {
                Some(next) => end = next,
                None => return Err(TarError::Malformed("a list of holes in it makes no sense")),
            }
            // Cannot overflow: the segments are apart and within the size.
            total += segment.length;
        }
        if total == stored {
            Ok(Map { segments, size })
        } else {
            Err(TarError::Malformed(
                "a list of holes in it does not fit its file",
            ))
        }
    }
}

/// Checks that a list does not eat the memory.
pub(super) fn ensure_few(segments: usize) -> Result<(), TarError> {
    if segments > MOST {
        Err(TarError::Malformed(
            "a file in it has more than a million holes",
        ))
    } else {
        Ok(())
    }
}

/// Offsets and lengths in turn.
pub(super) fn pairs(numbers: &[u64]) -> Result<Vec<Segment>, TarError> {
    if !numbers.len().is_multiple_of(2) {
        return Err(TarError::Malformed("a list of holes in it is not whole"));
    }
    ensure_few(numbers.len() / 2)?;
    let pairs = numbers.chunks_exact(2);
    Ok(pairs
        .map(|pair| Segment {
            offset: pair[0],
            length: pair[1],
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_must_be_in_order_and_within() {
        let map = |numbers: &[u64], size, stored| Map::new(pairs(numbers).unwrap(), size, stored);
        assert!(map(&[0, 5, 10, 5], 20, 10).is_ok());
        assert!(map(&[], 1 << 40, 0).is_ok());
        assert!(map(&[20, 0], 20, 0).is_ok());
        assert!(map(&[10, 5, 0, 5], 20, 10).is_err());
        assert!(map(&[0, 5, 4, 5], 20, 10).is_err());
        assert!(map(&[0, 5, 18, 5], 20, 10).is_err());
        assert!(map(&[0, 5], 20, 6).is_err());
        assert!(map(&[u64::MAX, 1], u64::MAX, 1).is_err());
        assert!(pairs(&[1]).is_err());
    }
}
