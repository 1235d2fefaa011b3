//! The floor of a boot: QEMU, the kernel, and an init that prints one word.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    time::{Duration, Instant},
};

use container_benches::bare_engine;
use container_kernel::Initramfs;
use tempfile::TempDir;

const INIT: &str = "#!/bin/busybox sh\n/bin/busybox echo up\n/bin/busybox poweroff -f\n";

/// The initramfs of a bare boot.
pub(crate) struct Floor {
    directory: TempDir,
}

impl Floor {
    /// Writes the init and busybox into an initramfs.
    pub(crate) fn new() -> Floor {
        let directory = tempfile::tempdir().unwrap();
        let mut initramfs = Initramfs::default();
        initramfs.directory("dev");
        initramfs.character_device("dev/console", 5, 1);
        initramfs.directory("bin");
        initramfs.file("bin/busybox", 0o755, fs::read("/bin/busybox").unwrap());
        initramfs.file("init", 0o755, INIT.as_bytes().to_vec());
        initramfs
            .write(&directory.path().join("initramfs"))
            .unwrap();
        Floor { directory }
    }

    /// Returns the duration from the start of QEMU with a machine type to the word of init.
    pub(crate) fn boot(&self, machine: &str, kernel: &Path) -> Duration {
        let begin = Instant::now();
        let initramfs = self.directory.path().join("initramfs");
        let mut engine = bare_engine(machine, kernel, &initramfs).spawn().unwrap();
        let console = BufReader::new(engine.stdout.take().unwrap()).lines();
        let mut printed = Vec::new();
        let is_up = console.map_while(Result::ok).any(|line| {
            let is_up = line.trim() == "up";
            printed.push(line);
            is_up
        });
        let taken = begin.elapsed();
        assert!(is_up, "the floor does not boot: {printed:#?}");
        engine.kill().unwrap();
        engine.wait().unwrap();
        taken
    }
}
