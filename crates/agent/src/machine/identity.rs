//! Ids and keys that every machine has of its own, also when the image contains some.

use std::{fs, io, os::fd::AsFd, process::Stdio};

use super::root::{GuestRoot, descriptor_path};
use crate::{kernel_log, paths::SEARCH_PATH, stage::Stage};

const MACHINE_ID: &str = "/etc/machine-id";
const DBUS_ID: &str = "/var/lib/dbus/machine-id";

/// What a program creates again if it is missing: random seeds of systemd, sysvinit, OpenRC and
/// seedrng, systemd's key for credentials, and NetworkManager's key for stable addresses.
const SECRETS: [&str; 7] = [
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/urandom/random-seed",
    "/var/lib/misc/random-seed",
    "/var/lib/seedrng/seed.credit",
    "/var/lib/seedrng/seed.no-credit",
    "/var/lib/NetworkManager/secret_key",
];

/// Directory and name of SSH host keys.
const SSH: &str = "/etc/ssh";

/// Path of the script that generates host keys. `/run` is a tmpfs.
const KEY_SCRIPT: &str = "/run/machine-host-keys.sh";

/// Replaces the ids and keys of the image. Called at the first boot, before init starts.
pub(super) async fn renew(root: &GuestRoot) -> io::Result<()> {
    renew_machine_id(root)?;
    for secret in SECRETS {
        remove_if_exists(root, secret)?;
    }
    let removed = remove_host_keys(root)?;
    if !removed.is_empty()
        && let Err(error) = generate_host_keys(root, &removed).await
    {
        // The machine works, but for its SSH server.
        kernel_log::error(&format!("cannot generate SSH host keys: {error}"));
    }
    Ok(())
}

/// Writes a new machine id (machine-id(5)) in place of the image's. A missing one, or one that
/// requests systemd's first boot, is left to the image's init.
fn renew_machine_id(root: &GuestRoot) -> io::Result<()> {
    let has_dbus_id = is_file(root, "/var/lib/dbus", "machine-id");
    let old = root.read(MACHINE_ID).ok();
    let is_id = old
        .as_deref()
        .is_some_and(|id| id.trim() != "uninitialized");
    if has_dbus_id {
        // systemd would take it for its own id. This is the link that Debian's D-Bus makes.
        root.remove(DBUS_ID)?;
        let directory = root.directory("/var/lib/dbus")?;
        rustix::fs::symlinkat(MACHINE_ID, &directory, "machine-id")?;
    }
    if is_id || (has_dbus_id && old.is_none()) {
        root.make_directory("/etc")?;
        root.write(MACHINE_ID, &format!("{}\n", random_id()?), 0o444)?;
    }
    Ok(())
}

/// Returns 128 random bits in hexadecimal.
fn random_id() -> io::Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.trim().replace('-', ""))
}

fn is_file(root: &GuestRoot, directory: &str, name: &str) -> bool {
    root.directory(directory).is_ok_and(|directory| {
        let file = descriptor_path(directory.as_fd()).join(name);
        fs::symlink_metadata(file).is_ok_and(|file| file.is_file())
    })
}

fn remove_if_exists(root: &GuestRoot, path: &str) -> io::Result<()> {
    match root.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the SSH host keys, and returns their types (`ed25519`, `rsa` …).
fn remove_host_keys(root: &GuestRoot) -> io::Result<Vec<String>> {
    let Ok(directory) = root.directory(SSH) else {
        return Ok(Vec::new());
    };
    let mut types = Vec::new();
    for entry in fs::read_dir(descriptor_path(directory.as_fd()))? {
        let name = entry?.file_name();
        let Some(key) = name
            .to_str()
            .and_then(|name| name.strip_prefix("ssh_host_"))
        else {
            continue;
        };
        if let Some(kind) = key.strip_suffix("_key") {
            types.push(kind.to_owned());
        } else if !key.ends_with("_key.pub") && !key.ends_with("_key-cert.pub") {
            continue;
        }
        remove_if_exists(root, &format!("{SSH}/ssh_host_{key}"))?;
    }
    types.sort();
    Ok(types)
}

/// Generates host keys of these types with the image's `ssh-keygen`, if it has one: not every
/// image's SSH server makes them when it starts.
async fn generate_host_keys(root: &GuestRoot, types: &[String]) -> io::Result<()> {
    if !root.exists("/usr/bin/ssh-keygen") || !root.exists("/bin/sh") {
        return Ok(());
    }
    let is_plain = |kind: &&String| kind.chars().all(|letter| letter.is_ascii_alphanumeric());
    let lines: Vec<String> = types
        .iter()
        .filter(is_plain)
        .map(|kind| format!("ssh-keygen -q -N '' -t {kind} -f {SSH}/ssh_host_{kind}_key\n"))
        .collect();
    root.write(KEY_SCRIPT, &format!("#!/bin/sh\n{}", lines.concat()), 0o700)?;
    let mut command = Stage::SetUp {
        program: KEY_SCRIPT.to_owned(),
    }
    .command();
    command
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .stdin(Stdio::null());
    let output = tokio::process::Command::from(command).output().await?;
    root.remove(KEY_SCRIPT)?;
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{}: {printed}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ids_and_keys_of_the_image_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        root.make_directory("/etc/ssh").unwrap();
        root.make_directory("/var/lib/dbus").unwrap();
        root.make_directory("/var/lib/systemd").unwrap();
        let id = "0123456789abcdef0123456789abcdef";
        for file in [
            MACHINE_ID,
            DBUS_ID,
            SECRETS[0],
            "/etc/ssh/ssh_host_rsa_key",
            "/etc/ssh/ssh_host_rsa_key.pub",
            "/etc/ssh/sshd_config",
        ] {
            root.write(file, id, 0o600).unwrap();
        }
        renew(&root).await.unwrap();
        let new = root.read(MACHINE_ID).unwrap();
        assert_eq!(new.len(), 33);
        assert_ne!(new.trim(), id);
        assert!(is_file(&root, "/etc/ssh", "sshd_config"));
        for gone in [
            SECRETS[0],
            "/etc/ssh/ssh_host_rsa_key",
            "/etc/ssh/ssh_host_rsa_key.pub",
        ] {
            assert!(!root.exists(gone), "{gone}");
        }
        assert_eq!(root.read(DBUS_ID).unwrap(), new);
    }

    #[test]
    fn missing_id_is_left_to_init() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        root.make_directory("/etc").unwrap();
        renew_machine_id(&root).unwrap();
        assert!(!root.exists(MACHINE_ID));
        root.write(MACHINE_ID, "uninitialized\n", 0o444).unwrap();
        renew_machine_id(&root).unwrap();
        assert_eq!(root.read(MACHINE_ID).unwrap(), "uninitialized\n");
    }
}
