//! Layers to a file system. With `E2FSCK` in the environment, e2fsck checks each file system that
//! is written, which is slow.
#![no_main]

use std::{path::Path, process::Command};

use container_fuzz::with_checksums;
use container_image::{Limits, fuzzing};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 256 << 20;
const LIMITS: Limits = Limits {
    most_bytes: 1 << 20,
    most_entries: 1000,
};

fuzz_target!(|input: &[u8]| {
    let archive = with_checksums(input);
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() {
        memory
    } else {
        Path::new("/tmp")
    };
    let Ok(file) = tempfile::NamedTempFile::new_in(directory) else {
        return;
    };
    // Twice, so that entries replace existing ones.
    let layers = [&archive[..], &archive[..]];
    let written = fuzzing::write_layers(layers, file.path(), SIZE, LIMITS);
    if written.is_ok() && std::env::var_os("E2FSCK").is_some() {
        let checked = Command::new("e2fsck").arg("-fn").arg(file.path()).output();
        let checked = checked.expect("e2fsck (package e2fsprogs) is needed");
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stdout)
        );
    }
});
