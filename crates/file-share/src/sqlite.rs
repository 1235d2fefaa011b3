//! Recognizes files of SQLite databases.
//!
//! The guest must not map a database or a log into memory: pages that it has mapped do not change
//! when the host writes to them. SQLite maps them only if that is possible, except for the index of
//! a log ([`crate::locks::one_sided`]).

use std::{ffi::CStr, fs::File, os::unix::fs::FileExt};

use crate::locks::{
    one_sided::{DATABASE, INDEX},
    request::ByteRange,
};

/// The first bytes of a database (<https://www.sqlite.org/fileformat.html>).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Offset of the version that is needed to read a database, and its value in WAL mode.
const READ_VERSION: (usize, u8) = (19, 2);

/// End of the name of a write-ahead log.
const LOG_SUFFIX: &[u8] = b"-wal";

/// End of the name of the index of a write-ahead log.
const INDEX_SUFFIX: &[u8] = b"-shm";

/// Usual ends of a database's name. An empty file has no other sign.
const DATABASE_SUFFIXES: [&[u8]; 4] = [b".db", b".db3", b".sqlite", b".sqlite3"];

/// Returns whether an open file of `size` bytes is a database or a write-ahead log.
pub(crate) fn is_database(file: &File, name: Option<&CStr>, size: u64) -> bool {
    let name = name.map(CStr::to_bytes).unwrap_or_default();
    if name.ends_with(LOG_SUFFIX) {
        return true;
    }
    if size == 0 {
        let mut suffixes = DATABASE_SUFFIXES.iter();
        return suffixes.any(|suffix| name.ends_with(suffix));
    }
    let mut start = [0; MAGIC.len()];
    // A file that is open for writing only fails.
    file.read_exact_at(&mut start, 0).is_ok() && start == *MAGIC
}

/// Returns whether host and guest must not both have locks of this range of a file, because
/// connections to a database in WAL mode hold them.
pub(crate) fn is_one_sided(file: &File, name: Option<&CStr>, range: ByteRange) -> bool {
    if range == DATABASE {
        return is_in_wal_mode(file);
    }
    let name = name.map(CStr::to_bytes).unwrap_or_default();
    range == INDEX && name.ends_with(INDEX_SUFFIX)
}

fn is_in_wal_mode(file: &File) -> bool {
    let mut start = [0; READ_VERSION.0 + 1];
    file.read_exact_at(&mut start, 0).is_ok()
        && start.starts_with(MAGIC)
        && start[READ_VERSION.0] == READ_VERSION.1
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn databases_are_recognized() {
        let directory = tempfile::tempdir().unwrap();
        let is_database = |name: &CStr, contents: &[u8]| {
            let path = directory.path().join(name.to_str().unwrap());
            fs::write(&path, contents).unwrap();
            let size = contents.len() as u64;
            is_database(&File::open(path).unwrap(), Some(name), size)
        };
        assert!(is_database(c"any", b"SQLite format 3\0 and more"));
        assert!(is_database(c"any-wal", b""));
        assert!(is_database(c"new.db", b""));
        assert!(!is_database(c"any", b""));
        assert!(!is_database(c"text.db", b"SQLite format 2\0"));
        assert!(!is_database(c"short", b"SQL"));
        assert!(!is_database(c"any-shm", b""));
    }
}
