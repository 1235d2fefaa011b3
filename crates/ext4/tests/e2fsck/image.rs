//! A file system that is written for a test, looked at with e2fsprogs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use container_ext4::{Options, Writer};

/// A file system in a file of its own.
pub struct Image {
    _directory: tempfile::TempDir,
    /// The file.
    pub path: PathBuf,
}

/// What `fill` writes, which e2fsck has nothing to say of.
pub fn image(size: u64, fill: impl FnOnce(&mut Writer)) -> Image {
    let options = Options {
        size,
        ..Options::default()
    };
    image_with(&options, fill)
}

/// The same of a certain kind.
pub fn image_with(options: &Options, fill: impl FnOnce(&mut Writer)) -> Image {
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

/// Whether the program succeeds on the image, and what it says.
pub fn run(program: &str, arguments: &[&str], image: &Path) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .arg(image)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("{program} (of e2fsprogs) is needed: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.success(),
        text + &String::from_utf8_lossy(&output.stderr),
    )
}

impl Image {
    /// Fails if e2fsck finds anything.
    pub fn check(&self) {
        let (clean, said) = run("e2fsck", &["-fn"], &self.path);
        assert!(clean, "{said}");
        assert!(
            !said.contains("Fix?") && !said.contains("IGNORED"),
            "{said}"
        );
    }

    /// What debugfs answers.
    pub fn ask(&self, request: &str) -> String {
        run("debugfs", &["-R", request], &self.path).1
    }

    /// What is in a file.
    pub fn contents(&self, path: &str) -> Vec<u8> {
        let to = self.path.with_extension("dumped");
        self.ask(&format!("dump {path} {}", to.display()));
        std::fs::read(to).unwrap()
    }
}
