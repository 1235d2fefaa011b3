//! File systems written for a test, and the programs of e2fsprogs that check them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use container_ext4::{Options, Writer};

/// Image in a temporary directory.
pub(crate) struct Image {
    _directory: tempfile::TempDir,
    /// Path of the image file.
    pub path: PathBuf,
}

/// Writes an image of `size` bytes with the entries that `fill` adds, and checks it with `e2fsck`.
pub(crate) fn image(size: u64, fill: impl FnOnce(&mut Writer)) -> Image {
    let options = Options {
        size,
        ..Options::default()
    };
    image_with(&options, fill)
}

/// Writes and checks an image like [`image`], with options.
pub(crate) fn image_with(options: &Options, fill: impl FnOnce(&mut Writer)) -> Image {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.ext4");
    let mut writer = Writer::create(&path, options).unwrap();
    fill(&mut writer);
    writer.finish().unwrap();
    let image = Image {
        _directory: directory,
        path,
    };
    image.check();
    image
}

/// Runs a program on an image. Returns whether it succeeded, and its output.
pub(crate) fn run(program: &str, arguments: &[&str], image: &Path) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .arg(image)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program} (install e2fsprogs): {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.success(),
        text + &String::from_utf8_lossy(&output.stderr),
    )
}

impl Image {
    /// Panics if `e2fsck` reports an error.
    pub(crate) fn check(&self) {
        let (is_clean, output) = run("e2fsck", &["-fn"], &self.path);
        assert!(is_clean, "{output}");
        assert!(
            !output.contains("Fix?") && !output.contains("IGNORED"),
            "{output}"
        );
    }

    /// Returns the output of a `debugfs` request.
    pub(crate) fn debugfs(&self, request: &str) -> String {
        run("debugfs", &["-R", request], &self.path).1
    }

    /// Returns the contents of a file in the image.
    pub(crate) fn contents(&self, path: &str) -> Vec<u8> {
        let to = self.path.with_extension("dumped");
        self.debugfs(&format!("dump {path} {}", to.display()));
        std::fs::read(to).unwrap()
    }
}
