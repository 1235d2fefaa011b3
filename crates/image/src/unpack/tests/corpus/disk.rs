//! File systems in files: written, checked with e2fsck and mounted.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use container_ext4::{Options, Writer};
use tempfile::TempDir;
use uuid::Uuid;

use crate::unpack::{
    layer,
    limits::{Budget, Limits},
};

/// Runs a program. Panics unless it succeeds; returns its standard output.
pub(crate) fn command(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}, which this test needs: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {errors}{printed}"
    );
    printed
}

/// An ext4 file system that e2fsck finds clean.
pub(crate) struct Disk {
    _directory: Option<TempDir>,
    path: PathBuf,
}

impl Disk {
    /// Writes layers, given as uncompressed tar archives, to a new file system.
    pub(crate) fn from_layers(layers: impl IntoIterator<Item = impl Read>) -> Disk {
        let directory = tempfile::tempdir_in(work_directory()).unwrap();
        let path = directory.path().join("disk.ext4");
        let options = Options {
            size: 64 << 30,
            uuid: Uuid::nil(),
            journal_blocks: 1024,
        };
        let mut writer = Writer::create(&path, &options).unwrap();
        let mut budget = Budget::new(Limits::default());
        for archive in layers {
            layer::apply(&mut writer, archive, &mut budget).unwrap();
        }
        writer.finish().unwrap();
        let disk = Disk {
            _directory: Some(directory),
            path,
        };
        disk.check();
        disk
    }

    /// Opens an existing file system.
    pub(crate) fn open(path: PathBuf) -> Disk {
        let disk = Disk {
            _directory: None,
            path,
        };
        disk.check();
        disk
    }

    fn check(&self) {
        let output = command("e2fsck", &["-fn", self.path.to_str().unwrap()]);
        assert!(
            !output.contains("Fix?") && !output.contains("IGNORED"),
            "{output}"
        );
    }

    /// Mounts it read-only; `None` when this process cannot mount.
    pub(crate) fn mount(&self) -> Option<Mounted> {
        Mounted::new(&self.path, "loop,ro")
    }
}

/// A mounted file system, unmounted on drop.
pub(crate) struct Mounted(TempDir);

impl Mounted {
    fn new(image: &Path, options: &str) -> Option<Mounted> {
        let directory = tempfile::tempdir_in(work_directory()).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "ext4", "-o", options])
            .args([image, directory.path()])
            .output()
            .unwrap();
        if mounted.status.success() {
            return Some(Mounted(directory));
        }
        println!("cannot mount, so nothing is compared: {mounted:?}");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        command("umount", &[self.path().to_str().unwrap()]);
    }
}

/// An empty file system made by mke2fs for other programs to unpack into. It stores everything that
/// Linux supports, such as extended attributes of 64 KiB (`ea_inode`).
pub(crate) struct Scratch {
    mounted: Mounted,
    _image: tempfile::NamedTempFile,
}

impl Scratch {
    /// Makes and mounts one; `None` when this process cannot mount.
    pub(crate) fn new() -> Option<Scratch> {
        let image = tempfile::NamedTempFile::new_in(work_directory()).unwrap();
        image.as_file().set_len(32 << 30).unwrap();
        let path = image.path().to_str().unwrap();
        let options = [
            "-q",
            "-t",
            "ext4",
            "-O",
            "ea_inode,large_dir",
            "-E",
            "nodiscard",
        ];
        command("mke2fs", &[&options[..], &[path]].concat());
        Some(Scratch {
            mounted: Mounted::new(image.path(), "loop")?,
            _image: image,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.mounted.path()
    }
}

/// The workspace's `target` directory: this program is `target/<profile>/deps/<name>`.
pub(crate) fn target() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(3).unwrap().to_owned()
}

/// Directory for large files, below `target` because `/tmp` may be in memory.
pub(crate) fn work_directory() -> PathBuf {
    let directory = target().join("tmp");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}
