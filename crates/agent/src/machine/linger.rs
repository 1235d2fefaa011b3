//! Lingering of the machine's user under systemd: the user's services run from boot to stop, also
//! while no command does.

use std::io;

use container_protocol::BootOccasion;

use super::root::GuestRoot;

/// Directory of the users that linger (`loginctl enable-linger`).
const DIRECTORY: &str = "/var/lib/systemd/linger";

/// Enables lingering, once: a user may disable it.
pub(super) fn enable(root: &GuestRoot, name: &str, occasion: BootOccasion) -> io::Result<()> {
    let has_systemd = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"]
        .iter()
        .any(|program| root.exists(program));
    // The directory is missing if systemd was installed after the first boot.
    if !has_systemd || (occasion != BootOccasion::First && root.exists(DIRECTORY)) {
        return Ok(());
    }
    root.make_directory(DIRECTORY)?;
    root.write(&format!("{DIRECTORY}/{}", escape(name)), "", 0o644)
}

/// Escapes a name as logind does (systemd, `cescape`).
fn escape(name: &str) -> String {
    let mut escaped = String::new();
    for letter in name.chars() {
        if matches!(letter, '\\' | '"' | '\'') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linger_can_be_disabled() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        enable(&root, "ann", BootOccasion::First).unwrap();
        assert!(!root.exists(DIRECTORY), "there is no systemd");
        root.make_directory("/usr/lib/systemd").unwrap();
        root.write("/usr/lib/systemd/systemd", "", 0o755).unwrap();
        enable(&root, "CORP\\ann", BootOccasion::Later).unwrap();
        let file = format!("{DIRECTORY}/CORP\\\\ann");
        assert!(root.exists(&file));
        root.remove(&file).unwrap();
        enable(&root, "CORP\\ann", BootOccasion::Later).unwrap();
        assert!(!root.exists(&file));
    }
}
