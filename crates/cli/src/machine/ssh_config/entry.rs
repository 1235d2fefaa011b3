//! The entry of machines in a configuration of ssh (ssh_config(5)).

use std::path::Path;

use container_api::SshClientFiles;
use container_machine::MachineId;

use crate::failure::Failure;

/// Domain of the machines' names.
pub(in crate::machine) const DOMAIN: &str = ".machine";

/// What the entry is made of.
pub(super) struct Entry<'a> {
    /// Machines that it names.
    pub ids: &'a [MachineId],
    /// Whether it is for all other machines too.
    pub is_for_all: bool,
    /// Path of this program.
    pub program: &'a Path,
    pub files: &'a SshClientFiles,
}

impl Entry<'_> {
    /// Returns the entry.
    ///
    /// The host keys are in a file and not printed by a `KnownHostsCommand`, because clients other
    /// than OpenSSH read the file too.
    pub(super) fn text(&self) -> Result<String, Failure> {
        let mut hosts: Vec<String> = self.ids.iter().map(|id| format!("{id}{DOMAIN}")).collect();
        if self.is_for_all {
            hosts.push(format!("*{DOMAIN}"));
        }
        Ok(format!(
            "\
# Machines of the program `container`, by: container machine ssh-config
Host {}
    ProxyCommand {} machine ssh-proxy --user '%r' '%h'
    IdentityFile {}
    IdentitiesOnly yes
    UserKnownHostsFile {}
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    UpdateHostKeys no
    ForwardAgent no
",
            hosts.join(" "),
            for_shell(self.program)?,
            quoted(&self.files.identity)?,
            quoted(&self.files.known_hosts)?,
        ))
    }
}

/// Returns a path as a word of a shell, with the percent signs of ssh escaped.
fn for_shell(path: &Path) -> Result<String, Failure> {
    let text = one_line(path)?.replace('\'', r"'\''").replace('%', "%%");
    Ok(format!("'{text}'"))
}

/// Returns a path as an argument in the configuration, with ssh's percent signs escaped.
fn quoted(path: &Path) -> Result<String, Failure> {
    Ok(quoted_literally(path)?.replace('%', "%%"))
}

/// Returns a path as an argument in the configuration that has no percent signs to expand.
pub(super) fn quoted_literally(path: &Path) -> Result<String, Failure> {
    let text = one_line(path)?.replace('\\', r"\\").replace('"', r#"\""#);
    Ok(format!("\"{text}\""))
}

fn one_line(path: &Path) -> Result<&str, Failure> {
    let text = path.to_str().filter(|text| !text.contains('\n'));
    text.ok_or_else(|| {
        Failure::new(format!(
            "cannot write {} to a configuration of ssh: it has to be one line of UTF-8",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_names_machines_and_all_others() {
        let files = SshClientFiles {
            identity: "/home/a b/ssh/id_ed25519".into(),
            known_hosts: "/home/a b/ssh/100%/known_hosts".into(),
        };
        let ids = ["dev".parse().unwrap()];
        let mut entry = Entry {
            ids: &ids,
            is_for_all: true,
            program: Path::new("/opt/it's/container"),
            files: &files,
        };
        insta::assert_snapshot!("ssh-config", entry.text().unwrap());
        entry.is_for_all = false;
        assert!(entry.text().unwrap().contains("\nHost dev.machine\n"));
        entry.program = Path::new("/a\nb");
        assert!(entry.text().is_err());
    }
}
