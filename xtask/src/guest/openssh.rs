//! Builds the SSH server of machines: OpenSSH's `sshd` from Debian's source, as a static program.
//!
//! It runs as the user who logs in and serves one connection of the machine's owner, so it has no
//! use for PAM, a sandbox, login records, and OpenSSL: Curve25519, Ed25519, ChaCha20-Poly1305 and
//! AES-CTR are its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};

use super::package;
use crate::{command, inputs::Inputs, progress};

/// Debian's name of the source, and a package that is built from it.
const SOURCE: &str = "openssh";
const PACKAGE: &str = "openssh-server";

/// Options of `configure`. Paths are those of a machine, where the guest agent creates
/// `/run/container/ssh`.
const OPTIONS: [&str; 18] = [
    "--without-openssl",
    "--without-zlib",
    "--without-pam",
    "--without-selinux",
    "--without-shadow",
    "--without-pie",
    "--with-sandbox=no",
    "--disable-security-key",
    "--disable-pkcs11",
    "--disable-lastlog",
    "--disable-utmp",
    "--disable-utmpx",
    "--disable-wtmp",
    "--disable-wtmpx",
    "--disable-libutil",
    // The image's /etc/ssh belongs to a server of its own.
    "--sysconfdir=/run/container/ssh/none",
    // Images have no user for the part before the login. Who can connect may be root anyway.
    "--with-privsep-user=root",
    "--with-privsep-path=/run/container/ssh",
];

/// Options of the linker. Debian's musl has no `crypt`, which only logins with a password call.
const LINKING: &str = "LDFLAGS=-static -Wl,--defsym=crypt=abort";

/// Builds the server in `directory`, unless it exists, and returns its path.
pub(super) fn build(directory: &Path) -> Result<PathBuf> {
    let program = directory.join("sshd");
    let package = package::candidate(PACKAGE)?;
    let version = package.split_once('=').map_or("", |(_, version)| version);
    let compiler = command::output(Command::new("musl-gcc").arg("--version"))?;
    let inputs = Inputs::default()
        .with(version)
        .with(compiler)
        .with(include_str!("openssh.rs"));
    inputs.build_if_changed(directory.join("sshd.stamp"), || {
        progress::print(&format!("Building the SSH server from {SOURCE} {version}"));
        let scratch = tempfile::tempdir_in(directory)?;
        let source = package::fetch_source(SOURCE, version, scratch.path())?;
        // Since version 9.8 the server consists of several programs.
        ensure!(
            !source.join("sshd-session.c").exists(),
            "the SSH server is built from OpenSSH before 9.8, not from {version}"
        );
        compile(&source)?;
        let built = source.join("sshd");
        command::run(Command::new("strip").arg(&built))?;
        fs::copy(&built, &program)
            .with_context(|| format!("cannot write {}", program.display()))?;
        Ok(())
    })?;
    Ok(program)
}

fn compile(source: &Path) -> Result<()> {
    // Debian changes `configure.ac`, for options that are not used here, and `configure` refuses to
    // be older.
    fs::File::options()
        .append(true)
        .open(source.join("configure"))?
        .set_modified(SystemTime::now())?;
    command::output(
        Command::new("./configure")
            .current_dir(source)
            .args(["CC=musl-gcc", "CFLAGS=-O2", LINKING])
            .args(OPTIONS),
    )?;
    let processors = std::thread::available_parallelism()?.get();
    let mut make = Command::new("make");
    // This may run in a make, whose options must not apply to this one.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
        make.env_remove(variable);
    }
    command::output(
        make.current_dir(source)
            .arg(format!("--jobs={processors}"))
            .arg("sshd"),
    )?;
    Ok(())
}
