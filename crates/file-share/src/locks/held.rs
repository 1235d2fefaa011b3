//! The byte ranges that an owner has locked.

use super::request::{Access, ByteRange};

/// The locked ranges of one owner in one file. They do not overlap.
#[derive(Debug, Default)]
pub(crate) struct HeldRanges(Vec<(ByteRange, Access)>);

impl HeldRanges {
    /// Records that a range was locked, or unlocked if there is no `access`.
    pub(crate) fn set(&mut self, range: ByteRange, access: Option<Access>) {
        let mut ranges = Vec::with_capacity(self.0.len() + 2);
        for (held, access) in self.0.drain(..) {
            if !held.overlaps(&range) {
                ranges.push((held, access));
                continue;
            }
            if held.first < range.first {
                let last = range.first - 1;
                ranges.push((ByteRange { last, ..held }, access));
            }
            if held.last > range.last {
                let first = range.last + 1;
                ranges.push((ByteRange { first, ..held }, access));
            }
        }
        if let Some(access) = access {
            ranges.push((range, access));
        }
        self.0 = ranges;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns whether a part of `range` is locked.
    pub(crate) fn overlaps(&self, range: &ByteRange) -> bool {
        self.0.iter().any(|(held, _)| held.overlaps(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(first: u64, last: u64) -> ByteRange {
        ByteRange { first, last }
    }

    #[test]
    fn a_part_can_be_unlocked_and_changed() {
        let mut held = HeldRanges::default();
        held.set(range(10, 20), Some(Access::Exclusive));
        held.set(range(14, 15), None);
        assert!(held.overlaps(&range(13, 13)) && held.overlaps(&range(16, 30)));
        assert!(!held.overlaps(&range(14, 15)));
        held.set(range(0, 12), Some(Access::Shared));
        held.0.sort_by_key(|(range, _)| range.first);
        let expected = [
            (range(0, 12), Access::Shared),
            (range(13, 13), Access::Exclusive),
            (range(16, 20), Access::Exclusive),
        ];
        assert_eq!(held.0, expected);
        held.set(range(0, i64::MAX as u64), None);
        assert!(held.is_empty());
    }
}
