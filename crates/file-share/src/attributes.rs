//! Attributes that the guest has cached, and what follows from the host's changes.
//!
//! The guest caches attributes for a second, and a file's contents until it sees another size or
//! modification time. It cannot be notified. Two rules keep programs that synchronize with the host
//! from reading old contents:
//!
//! - A file is opened only with attributes that are up to date. Otherwise the guest's kernel looks
//!   the path up again.
//! - Attributes of a file that has been locked are not cached, and a lock is granted only when
//!   those that were cached before have expired.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use virtiofsd::fuse::Attr;

/// Granularity of modification times, rounded up: file systems use the time of the kernel's last
/// tick. Within it a file can change twice and have one modification time.
const GRANULARITY: Duration = Duration::from_millis(20);

/// Attributes of a file that the guest may use without asking.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CachedAttributes {
    size: u64,
    modified: (u64, u32),
    /// Whether the file may have changed since without another modification time.
    is_racy: bool,
    pub expiry: Instant,
}

impl CachedAttributes {
    pub(crate) fn new(attributes: &Attr, validity: Duration) -> CachedAttributes {
        CachedAttributes {
            size: attributes.size,
            modified: (attributes.mtime, attributes.mtimensec),
            is_racy: is_just_modified(attributes),
            expiry: Instant::now() + validity,
        }
    }

    pub(crate) fn has_expired(&self) -> bool {
        self.expiry <= Instant::now()
    }

    /// Returns whether the guest knows a wrong size.
    pub(crate) fn has_other_size(&self, attributes: &Attr) -> bool {
        !self.has_expired() && self.size != attributes.size
    }

    /// Returns whether the file's contents may be others than those that the guest has cached.
    pub(crate) fn has_other_contents(&self, attributes: &Attr) -> bool {
        let modified = (attributes.mtime, attributes.mtimensec);
        let is_unchanged = self.size == attributes.size
            && self.modified == modified
            // Nothing of an empty file can be cached.
            && (!self.is_racy || self.size == 0);
        !self.has_expired() && !is_unchanged
    }
}

/// Changes the nanoseconds of a modification time so that the guest does not take the file for
/// unchanged, if it may have changed without another modification time. `number` is to be another
/// one each time.
pub(crate) fn distinguish_modification(attributes: &mut Attr, number: u32) {
    if is_just_modified(attributes) {
        attributes.mtimensec = attributes.mtimensec / 1000 * 1000 + number % 1000;
    }
}

fn is_just_modified(attributes: &Attr) -> bool {
    is_recent((attributes.mtime, attributes.mtimensec))
}

/// Returns whether the file may be changed again at this time, in seconds and nanoseconds.
pub(crate) fn is_recent((seconds, nanoseconds): (u64, u32)) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = Duration::new(seconds, nanoseconds);
    now.unwrap_or_default().abs_diff(time) < GRANULARITY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(size: u64, modified: Duration) -> Attr {
        Attr {
            size,
            mtime: modified.as_secs(),
            mtimensec: modified.subsec_nanos(),
            ..Attr::default()
        }
    }

    fn now() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
    }

    #[test]
    fn changes_are_noticed_until_the_cached_attributes_expire() {
        let old = attributes(5, Duration::from_secs(1000));
        let cached = CachedAttributes::new(&old, Duration::from_secs(1000));
        assert!(!cached.has_other_size(&old) && !cached.has_other_contents(&old));
        let grown = attributes(6, Duration::from_secs(1000));
        assert!(cached.has_other_size(&grown) && cached.has_other_contents(&grown));
        let touched = attributes(5, Duration::from_secs(1001));
        assert!(!cached.has_other_size(&touched) && cached.has_other_contents(&touched));
        let expired = CachedAttributes::new(&old, Duration::ZERO);
        assert!(!expired.has_other_size(&grown) && !expired.has_other_contents(&grown));
    }

    #[test]
    fn files_that_were_just_written_may_change_without_a_sign() {
        let written = attributes(5, now());
        let cached = CachedAttributes::new(&written, Duration::from_secs(1000));
        assert!(cached.has_other_contents(&written));
        let empty = attributes(0, now());
        let cached = CachedAttributes::new(&empty, Duration::from_secs(1000));
        assert!(!cached.has_other_contents(&empty));
    }

    #[test]
    fn only_recent_modification_times_are_changed() {
        let (mut one, mut other) = (attributes(5, now()), attributes(5, now()));
        distinguish_modification(&mut one, 1);
        distinguish_modification(&mut other, 1002);
        assert_eq!((one.mtimensec % 1000, other.mtimensec % 1000), (1, 2));
        let mut old = attributes(5, Duration::new(1000, 77));
        distinguish_modification(&mut old, 1);
        assert_eq!(old.mtimensec, 77);
    }
}
