//! Archives to a file system: it is written or refused, and nothing else. With `E2FSCK` in the
//! environment each one that was written is checked, which is slow.
#![no_main]

use std::{path::Path, process::Command};

use container_image::{Limits, fuzzing};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 256 << 20;
const LIMITS: Limits = Limits {
    most_bytes: 1 << 20,
    most_entries: 1000,
};

fuzz_target!(|input: Vec<u8>| {
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
    // Twice, so that a layer meets what is there already.
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

/// Headers have checksums, which no chance finds.
fn with_checksums(mut archive: Vec<u8>) -> Vec<u8> {
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] != *b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}
