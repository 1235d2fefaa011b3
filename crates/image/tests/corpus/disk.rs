//! A file system in a file, checked and mounted.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use container_image::{Limits, fuzzing};
use tempfile::TempDir;

/// Runs a program that must succeed; returns what it printed.
pub fn command(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said}{printed}"
    );
    printed
}

/// A file system that was written here, and is clean.
pub struct Disk {
    _directory: Option<TempDir>,
    path: PathBuf,
}

impl Disk {
    /// Writes these layers.
    pub fn of(layers: impl IntoIterator<Item = impl Read>) -> Disk {
        let directory = tempfile::tempdir_in(room()).unwrap();
        let path = directory.path().join("disk.ext4");
        fuzzing::write_layers(layers, &path, 64 << 30, Limits::default()).unwrap();
        let disk = Disk {
            _directory: Some(directory),
            path,
        };
        disk.check();
        disk
    }

    /// One that was written elsewhere.
    pub fn at(path: PathBuf) -> Disk {
        let disk = Disk {
            _directory: None,
            path,
        };
        disk.check();
        disk
    }

    fn check(&self) {
        let said = command("e2fsck", &["-fn", self.path.to_str().unwrap()]);
        assert!(
            !said.contains("Fix?") && !said.contains("IGNORED"),
            "{said}"
        );
    }

    /// Mounts it; none if that cannot be done here.
    pub fn mount(&self) -> Option<Mounted> {
        Mounted::new(&self.path, "loop,ro")
    }
}

/// A directory that a file system is mounted on.
pub struct Mounted(TempDir);

impl Mounted {
    fn new(image: &Path, options: &str) -> Option<Mounted> {
        let directory = tempfile::tempdir_in(room()).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "ext4", "-o", options])
            .args([image, directory.path()])
            .output()
            .unwrap();
        if mounted.status.success() {
            return Some(Mounted(directory));
        }
        println!("nothing is compared: {mounted:?}");
        None
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        command("umount", &[self.path().to_str().unwrap()]);
    }
}

/// An empty file system of e2fsprogs' own making that holds everything Linux knows, for others to
/// unpack into.
pub struct Scratch {
    mounted: Mounted,
    _image: tempfile::NamedTempFile,
}

impl Scratch {
    /// None if it cannot be mounted here.
    pub fn new() -> Option<Scratch> {
        let image = tempfile::NamedTempFile::new_in(room()).unwrap();
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

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }
}

/// Where large files may be: `/tmp` may be memory.
pub fn room() -> PathBuf {
    std::env::var_os("CARGO_TARGET_TMPDIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}
