//! Builds the test images and pushes them to the test registry.
//!
//! The sources of an image are in `tests/images/<name>`: a `Containerfile` and the files that it
//! copies. If there is a file `packages`, mmdebstrap first creates a Debian with these packages as
//! `rootfs.tar`; those that a file `backports` lists are from Debian's backports. A file
//! `architecture` names an architecture other than the host's.

use std::{
    fs,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
    thread,
};

use anyhow::{Context, Result, anyhow};

use crate::{
    command,
    directories::{checkout, target},
    guest::interpreters::HostInterpreter,
    inputs::Inputs,
    progress,
    registry::{self, Registry},
};

/// Debian release of the images.
const RELEASE: &str = "bookworm";

/// A test image.
struct TestImage {
    /// Name of its source directory and of its repository.
    name: &'static str,
    tag: &'static str,
}

/// Those that take longest come first.
const IMAGES: [TestImage; 8] = [
    TestImage {
        name: "debian-arm64",
        tag: "12",
    },
    TestImage {
        name: "debian-containers",
        tag: "12",
    },
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
        name: "debian-tools",
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

/// Those that are only built by name, because few tests need them.
const IMAGES_BY_NAME: [TestImage; 1] = [TestImage {
    name: "debian-kvm",
    tag: "12",
}];

/// Builds the named images, or without names those that `make test` needs. Images with unchanged
/// sources are skipped.
///
/// As many are built at a time as there are processors, because most steps of a build use only one.
pub fn build(names: &[&str]) -> Result<()> {
    let directory = target().join("images");
    fs::create_dir_all(&directory)?;
    let registry = OnceLock::new();
    let is_named = |image: &&TestImage| names.contains(&image.name);
    let by_name = IMAGES_BY_NAME.iter().filter(is_named);
    let images = IMAGES
        .iter()
        .filter(|image| names.is_empty() || is_named(image));
    let images = Mutex::new(images.chain(by_name));
    let next = || images.lock().ok()?.next();
    let build_one = |image: &TestImage| {
        let stamp = directory.join(format!("{}.stamp", image.name));
        image.inputs()?.build_if_changed(stamp, || {
            progress::print(&format!("Building the image {}:{}", image.name, image.tag));
            let registry = registry.get_or_init(|| Registry::start(&registry::storage()));
            let registry = registry.as_ref().map_err(|error| anyhow!("{error:#}"))?;
            image.build(registry, &directory)
        })
    };
    let processors = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let builders: Vec<_> = (0..processors)
            .map(|_| scope.spawn(|| std::iter::from_fn(next).try_for_each(build_one)))
            .collect();
        builders
            .into_iter()
            .try_for_each(|builder| builder.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

impl TestImage {
    fn sources(&self) -> PathBuf {
        checkout().join("tests/images").join(self.name)
    }

    fn inputs(&self) -> Result<Inputs> {
        let mut inputs = Inputs::default().with(include_str!("images.rs"));
        for file in files(&self.sources())? {
            let contents = fs::read(&file)?;
            inputs = inputs
                .with(file.as_os_str().as_encoded_bytes())
                .with(contents);
        }
        Ok(inputs)
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
            build_debian(&context, architecture)?;
        }
        if fs::read_to_string(context.join("Containerfile"))?.contains("COPY busybox ") {
            fs::copy("/bin/busybox", context.join("busybox"))
                .context("cannot copy /bin/busybox (install it with: make packages)")?;
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

/// Builds a Debian with the context's `packages` as the context's `rootfs.tar`.
fn build_debian(context: &Path, architecture: Option<&str>) -> Result<()> {
    let _interpreter = architecture.map(HostInterpreter::register).transpose()?;
    let packages = fs::read_to_string(context.join("packages"))?;
    let packages: Vec<&str> = packages.split_whitespace().collect();
    let backports = fs::read_to_string(context.join("backports")).ok();
    // An emulated processor takes minutes to configure packages that no test needs.
    let variant = if architecture.is_some() {
        "essential"
    } else {
        "minbase"
    };
    command::output(
        Command::new("mmdebstrap")
            .arg(format!("--variant={variant}"))
            .arg("--quiet")
            .arg(format!("--include={}", packages.join(",")))
            .args(architecture.map(|architecture| format!("--architectures={architecture}")))
            .args(backports.iter().flat_map(|packages| prefer_backports(packages)))
            // Each machine generates its own host keys and id.
            .arg("--customize-hook=rm -f \"$1\"/etc/ssh/ssh_host_*")
            .arg("--customize-hook=: > \"$1\"/etc/machine-id")
            .arg(RELEASE)
            .arg(context.join("rootfs.tar")),
    )?;
    Ok(())
}

/// Returns options of mmdebstrap with which these packages come from the release's backports.
fn prefer_backports(packages: &str) -> [String; 2] {
    let packages: Vec<&str> = packages.split_whitespace().collect();
    let source = format!("deb http://deb.debian.org/debian {RELEASE}-backports main");
    let preference = format!(
        "Package: {}\\nPin: release n={RELEASE}-backports\\nPin-Priority: 900",
        packages.join(" ")
    );
    [
        ("sources.list.d/backports.list", source),
        ("preferences.d/backports", preference),
    ]
    .map(|(file, text)| format!("--setup-hook=printf '{text}\\n' > \"$1\"/etc/apt/{file}"))
}

/// Returns all files below a directory, sorted.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
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
