//! Fetches interpreters for programs of other architectures: QEMU's user-mode emulators.
//!
//! Each architecture gets a cpio archive with the emulator and its registration for the kernel's
//! binfmt_misc (Documentation/admin-guide/binfmt-misc.rst).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use container_kernel::Initramfs;

use super::package;
use crate::{command, directories::target, inputs::Inputs, progress};

/// Package of the emulators. They are statically linked since version 10, which Debian 12 has in
/// its backports.
const PACKAGE: &str = "qemu-user";
const RELEASE: &str = "bookworm-backports";

/// Names of architectures in OCI and in QEMU.
const ARCHITECTURES: [(&str, &str); 5] = [
    ("arm64", "aarch64"),
    ("arm", "arm"),
    ("ppc64le", "ppc64le"),
    ("riscv64", "riscv64"),
    ("s390x", "s390x"),
];

/// Directory of the interpreters in the initramfs.
const DIRECTORY: &str = "interpreters";

/// Writes an `interpreter-<architecture>.cpio` for each architecture into `directory`.
pub fn fetch(directory: &Path) -> Result<()> {
    let stamp = directory.join("interpreters.stamp");
    let package = match newest() {
        Ok(package) => package,
        Err(error) if stamp.exists() => {
            progress::print(&format!("Keeping the existing interpreters: {error:#}"));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let inputs = Inputs::default()
        .with(&package)
        .with(include_str!("interpreters.rs"));
    inputs.build_if_changed(stamp, || {
        progress::print(&format!("Fetching the interpreters {package}"));
        let scratch = tempfile::tempdir_in(directory)?;
        let unpacked = package::fetch(&[&package], scratch.path())?;
        for (architecture, name) in ARCHITECTURES {
            let archive = directory.join(format!("interpreter-{architecture}.cpio"));
            pack(&unpacked, name, &archive).with_context(|| format!("cannot pack qemu-{name}"))?;
        }
        // Building test images of other architectures needs the emulators on the host.
        let kept = directory.join("qemu-user");
        fs::create_dir_all(&kept)?;
        for (_, name) in ARCHITECTURES {
            let program = format!("qemu-{name}");
            let from = unpacked.join("usr/bin").join(&program);
            fs::copy(from, kept.join(&program))?;
            let line = read_registration(&unpacked, name)?;
            fs::write(kept.join(format!("{program}.conf")), line)?;
        }
        Ok(())
    })
}

/// Registration of an interpreter on this host, removed when this is dropped.
pub struct HostInterpreter {
    /// Path of the registration; `None` for an interpreter that the host had before.
    entry: Option<PathBuf>,
}

impl HostInterpreter {
    /// Registers the interpreter of an architecture, unless the host has one. Requires root.
    pub fn register(architecture: &str) -> Result<HostInterpreter> {
        let known = ARCHITECTURES
            .iter()
            .find(|(known, _)| *known == architecture);
        let Some((_, name)) = known else {
            bail!("interpreter for {architecture} not found");
        };
        let table = Path::new("/proc/sys/fs/binfmt_misc");
        if !table.join("register").exists() {
            command::run(
                Command::new("mount")
                    .args(["-t", "binfmt_misc", "none"])
                    .arg(table),
            )?;
        }
        let program = target().join(format!("guest/qemu-user/qemu-{name}"));
        let entry = table.join(format!("qemu-{name}"));
        if entry.exists() {
            return Ok(HostInterpreter { entry: None });
        }
        let line = fs::read_to_string(program.with_extension("conf")).with_context(|| {
            format!(
                "cannot read the registration of {} (create it with: make build)",
                program.display()
            )
        })?;
        let line = relocate(&line, &program.display().to_string())?;
        fs::write(table.join("register"), line)
            .context("cannot register the interpreter (this requires root)")?;
        Ok(HostInterpreter { entry: Some(entry) })
    }
}

impl Drop for HostInterpreter {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            // A registration that stays is harmless.
            let _ = fs::write(entry, "-1");
        }
    }
}

/// Reads Debian's registration of an emulator.
fn read_registration(unpacked: &Path, name: &str) -> Result<String> {
    let path = unpacked.join(format!("usr/share/qemu/binfmt.d/qemu-{name}.conf"));
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Returns the newest version of the package as `package=version`.
fn newest() -> Result<String> {
    let versions = command::output(Command::new("apt-cache").args(["madison", PACKAGE]))?;
    let backported = versions.lines().find(|line| line.contains(RELEASE));
    match backported.and_then(|line| line.split('|').nth(1)) {
        Some(version) => Ok(format!("{PACKAGE}={}", version.trim())),
        None => {
            bail!("{PACKAGE} of {RELEASE} not found by apt (add the release with: make packages)")
        }
    }
}

/// Writes an emulator and its registration into a cpio archive.
fn pack(unpacked: &Path, name: &str, archive: &Path) -> Result<()> {
    let line = read_registration(unpacked, name)?;
    let mut contents = Initramfs::default();
    contents.directory(DIRECTORY);
    let program = format!("{DIRECTORY}/qemu-{name}");
    let emulator = fs::read(unpacked.join(format!("usr/bin/qemu-{name}")))?;
    let line = relocate(&line, &format!("/{program}"))?;
    contents.file(&program, 0o755, emulator);
    contents.file(&format!("{program}.conf"), 0o644, line.into_bytes());
    Ok(contents.write(archive)?)
}

/// Changes a registration to another path of the interpreter and to the flags that a machine needs.
///
/// - F: the kernel opens the interpreter at its registration, since its path does not exist in the
///   machine.
/// - P: the interpreter receives the program's zeroth argument.
/// - C, which requires O: set-user-ID programs such as sudo get their privileges.
fn relocate(line: &str, program: &str) -> Result<String> {
    let fields: Vec<&str> = line.trim().split(':').collect();
    let [before @ .., _interpreter, _flags] = fields.as_slice() else {
        bail!("invalid registration {line:?}");
    };
    Ok(format!("{}:{program}:POCF", before.join(":")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn relocate_changes_path_and_flags() {
        let line = ":qemu-arm:M::\\x7f:\\xff:/usr/libexec/qemu-binfmt/arm-binfmt-P:OPF\n";
        let registration = super::relocate(line, "/interpreters/qemu-arm").unwrap();
        assert_eq!(
            registration,
            ":qemu-arm:M::\\x7f:\\xff:/interpreters/qemu-arm:POCF"
        );
        assert!(super::relocate("nonsense", "/x").is_err());
    }
}
