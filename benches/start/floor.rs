//! The floor: the engine, the kernel, and an init that says one word.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    time::{Duration, Instant},
};

use container_benches::bare_engine;
use container_kernel::Archive;
use tempfile::TempDir;

const INIT: &str = "#!/bin/busybox sh\n/bin/busybox echo up\n/bin/busybox poweroff -f\n";

/// What a bare boot needs.
pub struct Floor {
    directory: TempDir,
}

impl Floor {
    /// Puts the init and its shell into an initial RAM file system.
    pub fn new() -> Floor {
        let directory = tempfile::tempdir().unwrap();
        let mut initramfs = Archive::default();
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

    /// How long it takes from the engine's start to init's word.
    pub fn boot(&self, kernel: &Path) -> Duration {
        let begin = Instant::now();
        let initramfs = self.directory.path().join("initramfs");
        let mut engine = bare_engine(kernel, &initramfs).spawn().unwrap();
        let mut console = BufReader::new(engine.stdout.take().unwrap()).lines();
        let is_up = console.any(|line| line.is_ok_and(|line| line.trim() == "up"));
        let taken = begin.elapsed();
        assert!(is_up, "the floor does not boot");
        engine.kill().unwrap();
        engine.wait().unwrap();
        taken
    }
}
