//! Headers of qcow2 files.
#![no_main]

use std::fs;

use container_engine::disk;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let file = directory.path().join("disk.qcow2");
    fs::write(&file, input).unwrap();
    let _ = disk::is_unwritten(&file);
    let capacity = disk::read_capacity(&file);
    if let Ok(base) = disk::read_base(&file) {
        assert!(capacity.is_ok());
        assert!(base.is_none_or(|base| base.is_absolute()));
    }
});
