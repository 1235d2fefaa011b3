//! Fetches Debian packages and their sources with apt and unpacks them without installing them.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::command;

/// Archive and release of each list of sources of Debian 12.
const SOURCES: [(&str, &str); 3] = [
    ("debian", "bookworm"),
    ("debian", "bookworm-updates"),
    ("debian-security", "bookworm-security"),
];

/// Returns the version of a package that apt would install, as `package=version`.
pub fn candidate(package: &str) -> Result<String> {
    let about = command::output(
        Command::new("apt-cache")
            .args(["show", "--no-all-versions"])
            .arg(package),
    )?;
    let version = about
        .lines()
        .find_map(|line| line.strip_prefix("Version: "));
    match version {
        Some(version) => Ok(format!("{package}={version}")),
        None => bail!("package {package} not found by apt (update its lists with: apt-get update)"),
    }
}

/// Runs depmod on the modules of a kernel in `tree/lib/modules/RELEASE`.
pub(super) fn index_modules(tree: &Path, release: &str) -> Result<()> {
    command::run(
        Command::new("depmod")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .arg("--basedir")
            .arg(tree)
            .arg(release),
    )
}

/// Fetches the package given by arguments of `apt-get download` and unpacks it in `scratch`, an
/// empty directory. Returns the directory of the unpacked files.
pub fn fetch(package: &[&str], scratch: &Path) -> Result<PathBuf> {
    command::run(
        Command::new("apt-get")
            .args(["--quiet=2", "-o", "APT::Sandbox::User=root", "download"])
            .args(package)
            .current_dir(scratch),
    )?;
    let unpacked = scratch.join("unpacked");
    let archive = fs::read_dir(scratch)?
        .next()
        .context("apt-get downloaded no package")??;
    command::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(archive.path())
            .arg(&unpacked),
    )?;
    Ok(unpacked)
}

/// Fetches this version of a source with Debian's changes and unpacks it in `scratch`, an empty
/// directory. Returns the directory of the source. The host's own lists of sources are not used,
/// because few hosts have any.
pub(super) fn fetch_source(name: &str, version: &str, scratch: &Path) -> Result<PathBuf> {
    let list = scratch.join("sources.list");
    let lines = SOURCES.map(|(archive, release)| {
        format!(
            "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
             http://deb.debian.org/{archive} {release} main\n"
        )
    });
    fs::write(&list, lines.concat())?;
    fs::create_dir_all(scratch.join("lists/partial"))?;
    let path = |option: &str, path: &str| {
        let mut argument = OsString::from(format!("{option}="));
        argument.push(scratch.join(path));
        argument
    };
    let options = [
        "APT::Sandbox::User=root".into(),
        "Dir::Etc::sourceparts=-".into(),
        path("Dir::Etc::sourcelist", "sources.list"),
        path("Dir::State::lists", "lists"),
        path("Dir::Cache", "cache"),
    ];
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.current_dir(scratch).arg("--quiet=2");
        for option in &options {
            command.arg("-o").arg(option);
        }
        command
    };
    command::output(apt_get().arg("update"))?;
    let source = format!("{name}={version}");
    command::output(apt_get().args(["--download-only", "source", &source]))?;
    let description = fs::read_dir(scratch)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
        .context("apt-get downloaded no source")?;
    let unpacked = scratch.join("source");
    command::output(
        Command::new("dpkg-source")
            // apt has checked it.
            .args(["--no-check", "--extract"])
            .arg(&description)
            .arg(&unpacked),
    )?;
    Ok(unpacked)
}
