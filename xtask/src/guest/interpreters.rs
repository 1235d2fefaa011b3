//! What runs programs of other architectures in a machine: QEMU's user-mode emulators, one archive
//! for each architecture, with the line that tells the kernel which programs are for it
//! (Documentation/admin-guide/binfmt-misc.rst).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use container_kernel::Archive;

use super::package;
use crate::{command, recipe::Recipe, say};

/// Has them, statically linked from version 10 on, which Debian 12 has in its backports.
const PACKAGE: &str = "qemu-user";
const RELEASE: &str = "bookworm-backports";

/// Architectures in OCI's words and in QEMU's.
const ARCHITECTURES: [(&str, &str); 5] = [
    ("arm64", "aarch64"),
    ("arm", "arm"),
    ("ppc64le", "ppc64le"),
    ("riscv64", "riscv64"),
    ("s390x", "s390x"),
];

/// Where they are in the initial RAM file system.
const DIRECTORY: &str = "interpreters";

/// Puts an `interpreter-<architecture>.cpio` for each architecture into `directory`.
pub fn fetch(directory: &Path) -> Result<()> {
    let stamp = directory.join("interpreters.stamp");
    let package = match newest() {
        Ok(package) => package,
        Err(error) if stamp.exists() => {
            say(&format!(
                "Keeping the interpreters that are there: {error:#}"
            ));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let recipe = Recipe::default()
        .with(&package)
        .with(include_str!("interpreters.rs"));
    recipe.make(stamp, || {
        say(&format!("Fetching the interpreters {package}"));
        let scratch = tempfile::tempdir_in(directory)?;
        let unpacked = package::fetch(&[&package], scratch.path())?;
        for (architecture, name) in ARCHITECTURES {
            let archive = directory.join(format!("interpreter-{architecture}.cpio"));
            pack(&unpacked, name, &archive).with_context(|| format!("packing qemu-{name}"))?;
        }
        // For the test images.
        let kept = directory.join("qemu-user");
        fs::create_dir_all(&kept)?;
        for (_, name) in ARCHITECTURES {
            let program = format!("qemu-{name}");
            let from = unpacked.join("usr/bin").join(&program);
            fs::copy(from, kept.join(&program))?;
            let line = conf(&unpacked, name)?;
            fs::write(kept.join(format!("{program}.conf")), line)?;
        }
        Ok(())
    })
}

/// Lets this host run programs of another architecture, until this is dropped.
pub struct OnHost {
    entry: Option<PathBuf>,
}

impl OnHost {
    /// Registers the interpreter of this architecture, unless the host has one.
    pub fn register(architecture: &str) -> Result<OnHost> {
        let known = ARCHITECTURES
            .iter()
            .find(|(known, _)| *known == architecture);
        let Some((_, name)) = known else {
            bail!("there is no interpreter for {architecture}");
        };
        let table = Path::new("/proc/sys/fs/binfmt_misc");
        if !table.join("register").exists() {
            command::run(
                Command::new("mount")
                    .args(["-t", "binfmt_misc", "none"])
                    .arg(table),
            )?;
        }
        let program = crate::target().join(format!("guest/qemu-user/qemu-{name}"));
        let entry = table.join(format!("qemu-{name}"));
        if entry.exists() {
            return Ok(OnHost { entry: None });
        }
        let line = fs::read_to_string(program.with_extension("conf"))
            .with_context(|| format!("reading {} (`make build` makes it)", program.display()))?;
        let line = registration(&line, &program.display().to_string())?;
        fs::write(table.join("register"), line)
            .context("telling the kernel what runs programs of another architecture (as root)")?;
        Ok(OnHost { entry: Some(entry) })
    }
}

impl Drop for OnHost {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            // What stays does no harm.
            let _ = fs::write(entry, "-1");
        }
    }
}

fn conf(unpacked: &Path, name: &str) -> Result<String> {
    let path = unpacked.join(format!("usr/share/qemu/binfmt.d/qemu-{name}.conf"));
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// `package=version`, as apt would fetch it.
fn newest() -> Result<String> {
    let versions = command::output(Command::new("apt-cache").args(["madison", PACKAGE]))?;
    let backported = versions.lines().find(|line| line.contains(RELEASE));
    match backported.and_then(|line| line.split('|').nth(1)) {
        Some(version) => Ok(format!("{PACKAGE}={}", version.trim())),
        None => bail!("apt knows no {PACKAGE} of {RELEASE}: `make packages` adds that"),
    }
}

fn pack(unpacked: &Path, name: &str, archive: &Path) -> Result<()> {
    let line = conf(unpacked, name)?;
    let mut contents = Archive::default();
    contents.directory(DIRECTORY);
    let program = format!("{DIRECTORY}/qemu-{name}");
    let emulator = fs::read(unpacked.join(format!("usr/bin/qemu-{name}")))?;
    let line = registration(&line, &format!("/{program}"))?;
    contents.file(&program, 0o755, emulator);
    contents.file(&format!("{program}.conf"), 0o644, line.into_bytes());
    Ok(contents.write(archive)?)
}

/// Debian's line with the interpreter at another place, and with the flags that a machine needs:
/// the interpreter is opened now, for later it is out of sight (F), it is told the program's own
/// name (P), and set-user-ID programs such as sudo get what they are owed (C, which needs O).
fn registration(line: &str, program: &str) -> Result<String> {
    let fields: Vec<&str> = line.trim().split(':').collect();
    let [before @ .., _interpreter, _flags] = fields.as_slice() else {
        bail!("{line:?} is no registration");
    };
    Ok(format!("{}:{program}:POCF", before.join(":")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_registration_names_our_place_and_flags() {
        let line = ":qemu-arm:M::\\x7f:\\xff:/usr/libexec/qemu-binfmt/arm-binfmt-P:OPF\n";
        let registration = super::registration(line, "/interpreters/qemu-arm").unwrap();
        assert_eq!(
            registration,
            ":qemu-arm:M::\\x7f:\\xff:/interpreters/qemu-arm:POCF"
        );
        assert!(super::registration("nonsense", "/x").is_err());
    }
}
