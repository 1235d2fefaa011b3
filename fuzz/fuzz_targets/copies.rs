//! Tar streams of copies: nothing is written outside of the destination.
#![no_main]

use std::fs;

use container_copy::{UnpackMode, unpack};
use container_fuzz::with_checksums;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(outer) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let inside = outer.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let archive = with_checksums(input);
    let copy = |name: Option<&str>| UnpackMode::Copy {
        name: name.map(Into::into),
    };
    for mode in [copy(None), copy(Some("a")), UnpackMode::Tar] {
        let _ = unpack(&archive[..], &inside, &mode, &mut |_| ());
    }
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
});
