//! Sparse files: which bytes are in the archive, and at which offsets of the file they belong.

use super::TarError;

/// Maximum number of segments of a file, which take 16 MiB of memory.
const MOST_SEGMENTS: usize = 1 << 20;

/// A part of a file whose bytes are in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The segments of a file: in order, without overlap, within the size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseMap {
    pub(super) segments: Vec<Segment>,
    pub(super) size: u64,
}

impl SparseMap {
    /// Checks the segments of a member that has `stored` bytes in the archive.
    pub(super) fn new(
        segments: Vec<Segment>,
        size: u64,
        stored: u64,
    ) -> Result<SparseMap, TarError> {
        let mut end = 0u64;
        let mut total = 0u64;
        for segment in &segments {
            let is_ordered = segment.offset >= end;
            let next = segment.offset.checked_add(segment.length);
            match next.filter(|next| is_ordered && *next <= size) {
                Some(next) => end = next,
                None => return Err(TarError::Malformed("invalid sparse map")),
            }
            // Cannot overflow: the segments do not overlap and are within the size.
            total += segment.length;
        }
        if total == stored {
            Ok(SparseMap { segments, size })
        } else {
            Err(TarError::Malformed(
                "a sparse map does not match the size of its file",
            ))
        }
    }
}

/// Checks the limit on the number of segments.
pub(super) fn check_segment_count(segments: usize) -> Result<(), TarError> {
    if segments > MOST_SEGMENTS {
        Err(TarError::Malformed("a file has more than a million holes"))
    } else {
        Ok(())
    }
}

/// Converts alternating offsets and lengths to segments.
pub(super) fn segments_from_numbers(numbers: &[u64]) -> Result<Vec<Segment>, TarError> {
    if !numbers.len().is_multiple_of(2) {
        return Err(TarError::Malformed("a sparse map is incomplete"));
    }
    check_segment_count(numbers.len() / 2)?;
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
    fn segments_must_be_in_order_and_within_the_size() {
        let map = |numbers: &[u64], size, stored| {
            SparseMap::new(segments_from_numbers(numbers).unwrap(), size, stored)
        };
        assert!(map(&[0, 5, 10, 5], 20, 10).is_ok());
        assert!(map(&[], 1 << 40, 0).is_ok());
        assert!(map(&[20, 0], 20, 0).is_ok());
        assert!(map(&[10, 5, 0, 5], 20, 10).is_err());
        assert!(map(&[0, 5, 4, 5], 20, 10).is_err());
        assert!(map(&[0, 5, 18, 5], 20, 10).is_err());
        assert!(map(&[0, 5], 20, 6).is_err());
        assert!(map(&[u64::MAX, 1], u64::MAX, 1).is_err());
        assert!(segments_from_numbers(&[1]).is_err());
    }
}
