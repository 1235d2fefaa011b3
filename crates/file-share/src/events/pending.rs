//! Changes of the host that wait to be repeated in the guest. Those that follow each other closely
//! are merged.

use std::collections::HashMap;

use container_protocol::{HomeEntry, HomeFile, HomeTouch};

/// Limit of waiting changes.
const MAX_PENDING: usize = 1 << 15;

/// A change, or several of one name that the kernel has merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A file at a name or a watched file.
    File {
        file: HomeFile,
        what: What,
        is_directory: bool,
    },
    /// A rename. One of the names is absent if its directory is not watched.
    Renamed {
        from: Option<HomeEntry>,
        to: Option<HomeEntry>,
        is_directory: bool,
    },
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct What {
    pub is_created: bool,
    pub is_removed: bool,
    pub touch: HomeTouch,
}

/// Waiting changes, in order.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    changes: Vec<Change>,
    /// Index of the change that a file's next touch can be merged with.
    last: HashMap<HomeFile, usize>,
    /// Whether changes were lost.
    has_overflowed: bool,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.has_overflowed
    }

    /// Adds a change.
    pub(crate) fn add(&mut self, change: Change) {
        if self.changes.len() >= MAX_PENDING {
            self.overflow();
        }
        match &change {
            Change::File { file, what, .. } => {
                if !what.is_created
                    && !what.is_removed
                    && let Some(last) = self.last.get(file)
                    && let Some(Change::File { what: earlier, .. }) = self.changes.get_mut(*last)
                {
                    earlier.touch.add(what.touch);
                    return;
                }
                // The kernel merges a creation with a later removal, and reports touches that were
                // in between afterwards.
                if what.is_removed && !what.is_created {
                    self.last.remove(file);
                } else {
                    self.last.insert(file.clone(), self.changes.len());
                }
            }
            Change::Renamed { from, to, .. } => {
                for entry in [from, to].into_iter().flatten() {
                    self.last.remove(&HomeFile::Entry(entry.clone()));
                }
            }
        }
        self.changes.push(change);
    }

    /// Records that changes were lost. Those that wait are of no use then.
    pub(crate) fn overflow(&mut self) {
        *self = Pending {
            has_overflowed: true,
            ..Pending::default()
        };
    }

    /// Adds changes in place of those that were lost, also if they are more than the limit.
    pub(crate) fn replace_lost(&mut self, changes: impl Iterator<Item = Change>) {
        self.changes.splice(..0, changes);
        self.last.clear();
    }

    /// Takes the first changes. Returns `None`, once, if changes were lost.
    pub(crate) fn take(&mut self, limit: usize) -> Option<Vec<Change>> {
        if std::mem::take(&mut self.has_overflowed) {
            return None;
        }
        self.last.clear();
        let limit = limit.min(self.changes.len());
        Some(self.changes.drain(..limit).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> HomeEntry {
        HomeEntry {
            directory: 7,
            name: name.into(),
        }
    }

    fn file(name: &str, what: What) -> Change {
        Change::File {
            file: HomeFile::Entry(entry(name)),
            what,
            is_directory: false,
        }
    }

    const MODIFIED: What = What {
        is_created: false,
        is_removed: false,
        touch: HomeTouch {
            is_modified: true,
            has_new_attributes: false,
            is_closed: false,
        },
    };
    const CREATED: What = What {
        is_created: true,
        is_removed: false,
        touch: HomeTouch {
            is_modified: false,
            has_new_attributes: false,
            is_closed: false,
        },
    };

    #[test]
    fn touches_of_one_file_are_merged_in_order() {
        let mut pending = Pending::default();
        pending.add(file("a", CREATED));
        pending.add(file("b", MODIFIED));
        for _ in 0..1000 {
            pending.add(file("a", MODIFIED));
        }
        let both = What {
            touch: MODIFIED.touch,
            ..CREATED
        };
        let expected = vec![file("a", both), file("b", MODIFIED)];
        assert_eq!(pending.take(10), Some(expected));
        assert!(pending.is_empty());
    }

    #[test]
    fn a_rename_separates_touches() {
        let mut pending = Pending::default();
        let renamed = Change::Renamed {
            from: Some(entry("a")),
            to: Some(entry("b")),
            is_directory: false,
        };
        let changes = vec![
            file("a", MODIFIED),
            renamed,
            file("a", MODIFIED),
            file("b", MODIFIED),
        ];
        for change in &changes {
            pending.add(change.clone());
        }
        assert_eq!(pending.take(1), Some(changes[..1].to_vec()));
        assert_eq!(pending.take(10), Some(changes[1..].to_vec()));
    }

    #[test]
    fn an_overflow_is_reported_once() {
        let mut pending = Pending::default();
        for number in 0..=MAX_PENDING {
            pending.add(file(&number.to_string(), CREATED));
        }
        assert_eq!(pending.take(10), None);
        pending.replace_lost((0..=MAX_PENDING).map(|number| file(&number.to_string(), MODIFIED)));
        assert_eq!(
            pending.take(MAX_PENDING + 1).unwrap().len(),
            MAX_PENDING + 1
        );
        assert_eq!(
            pending.take(10).unwrap(),
            [file(&MAX_PENDING.to_string(), CREATED)]
        );
        assert!(pending.is_empty());
    }
}
