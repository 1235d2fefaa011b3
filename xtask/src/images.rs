//! The test images, built from Debian's packages and pushed into the test registry's storage.
//!
//! An image's sources are in `tests/images/<name>`: a `Containerfile`, and what it copies. Where
//! there is a list of `packages`, mmdebstrap makes a Debian with them, `rootfs.tar`, first; for
//! another `architecture` than the host's if there is such a file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    checkout, command,
    guest::interpreters::OnHost,
    recipe::Recipe,
    registry::{self, Registry},
    say, target,
};

/// The Debian release of the images.
const RELEASE: &str = "bookworm";

/// An image: its directory's name and, in the registry, its tag.
struct TestImage {
    name: &'static str,
    tag: &'static str,
}

const IMAGES: [TestImage; 6] = [
    TestImage {
        name: "debian-systemd",
        tag: "12",
    },
    TestImage {
        name: "debian-sysvinit",
        tag: "12",
    },
    TestImage {
        name: "debian-plain",
        tag: "12",
    },
    TestImage {
        name: "debian-arm64",
        tag: "12",
    },
    TestImage {
        name: "busybox",
        tag: "1",
    },
    TestImage {
        name: "busybox-plain",
        tag: "1",
    },
];

/// Builds the images with these names, or all where none is named, whose sources have changed.
pub fn build(names: &[&str]) -> Result<()> {
    let directory = target().join("images");
    fs::create_dir_all(&directory)?;
    let mut registry = None;
    let wanted = |image: &&TestImage| names.is_empty() || names.contains(&image.name);
    for image in IMAGES.iter().filter(wanted) {
        let stamp = directory.join(format!("{}.stamp", image.name));
        image.recipe()?.make(stamp, || {
            say(&format!("Building the image {}:{}", image.name, image.tag));
            let registry = match &mut registry {
                Some(registry) => registry,
                None => registry.insert(Registry::start(&registry::storage())?),
            };
            image.build(registry, &directory)
        })?;
    }
    Ok(())
}

impl TestImage {
    fn sources(&self) -> PathBuf {
        checkout().join("tests/images").join(self.name)
    }

    fn recipe(&self) -> Result<Recipe> {
        let mut recipe = Recipe::default().with(include_str!("images.rs"));
        for file in files(&self.sources())? {
            let contents = fs::read(&file)?;
            recipe = recipe
                .with(file.as_os_str().as_encoded_bytes())
                .with(contents);
        }
        Ok(recipe)
    }

    fn build(&self, registry: &Registry, directory: &Path) -> Result<()> {
        let scratch = tempfile::tempdir_in(directory)?;
        let context = scratch.path().join("context");
        command::run(
            Command::new("cp")
                .arg("--recursive")
                .arg(self.sources())
                .arg(&context),
        )?;
        let architecture = fs::read_to_string(context.join("architecture")).ok();
        let architecture = architecture.as_deref().map(str::trim);
        if context.join("packages").exists() {
            make_debian(&context, architecture)?;
        }
        if fs::read_to_string(context.join("Containerfile"))?.contains("COPY busybox ") {
            fs::copy("/bin/busybox", context.join("busybox"))
                .context("copying /bin/busybox (`make packages` installs it)")?;
        }
        let reference = format!("{}/{}:{}", registry.address(), self.name, self.tag);
        let buildah = || {
            let mut buildah = Command::new("buildah");
            buildah.args(["--storage-driver", "vfs"]);
            buildah.arg("--root").arg(scratch.path().join("storage"));
            buildah.arg("--runroot").arg(scratch.path().join("run"));
            buildah
        };
        command::output(
            buildah()
                .args(["build", "--isolation", "chroot", "--quiet", "--tag"])
                .arg(&reference)
                .args(architecture.map(|architecture| format!("--platform=linux/{architecture}")))
                .arg(&context),
        )?;
        command::output(
            buildah()
                .args(["push", "--quiet", "--tls-verify=false"])
                .arg(&reference)
                .arg(format!("docker://{reference}")),
        )?;
        Ok(())
    }
}

/// A Debian with the context's `packages`, as the context's `rootfs.tar`.
fn make_debian(context: &Path, architecture: Option<&str>) -> Result<()> {
    let _interpreter = architecture.map(OnHost::register).transpose()?;
    let packages = fs::read_to_string(context.join("packages"))?;
    let packages: Vec<&str> = packages.split_whitespace().collect();
    command::output(
        Command::new("mmdebstrap")
            .args(["--variant=minbase", "--quiet"])
            .arg(format!("--include={}", packages.join(",")))
            .args(architecture.map(|architecture| format!("--architectures={architecture}")))
            // Every machine makes its own.
            .arg("--customize-hook=rm -f \"$1\"/etc/ssh/ssh_host_*")
            .arg("--customize-hook=: > \"$1\"/etc/machine-id")
            .arg(RELEASE)
            .arg(context.join("rootfs.tar")),
    )?;
    Ok(())
}

/// All files below a directory, in order.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
