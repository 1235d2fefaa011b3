//! Writes the machine's host name, and the names of its hosts.

use std::{io, net::Ipv4Addr};

use container_protocol::MachineSetup;

use super::{resolver, root::GuestRoot};
use crate::kernel_log;

/// Writes `/etc/hostname`, `/etc/hosts` and the resolver's configuration. A failure is only logged:
/// the user may have made a file immutable, and can change nothing in a machine that does not boot.
pub(super) fn write(root: &GuestRoot, setup: &MachineSetup) {
    for (file, written) in [
        ("/etc/hostname", write_hostname(root, setup)),
        ("/etc/hosts", write_hosts(root, setup)),
        ("/etc/resolv.conf", write_resolver(root, setup)),
    ] {
        if let Err(error) = written {
            kernel_log::error(&format!(
                "cannot write {file}, which is left as it is: {error}"
            ));
        }
    }
}

fn write_hostname(root: &GuestRoot, setup: &MachineSetup) -> io::Result<()> {
    root.make_directory("/etc")?;
    root.ensure("/etc/hostname", &format!("{}\n", setup.id), 0o644)
}

fn write_hosts(root: &GuestRoot, setup: &MachineSetup) -> io::Result<()> {
    let network = setup.network.as_ref();
    let address = network.map_or(Ipv4Addr::LOCALHOST, |network| network.address);
    let hosts = root.read_or_empty("/etc/hosts")?;
    let wanted = with_machine(&hosts, address, &setup.id);
    root.ensure("/etc/hosts", &wanted, 0o644)
}

/// Returns `hosts` with the machine's line directly after that of `localhost`.
///
/// Removes the machine's old lines: those with its name, and those with its address and any one
/// name, which is its name before a rename. Other lines are the user's and are kept.
fn with_machine(hosts: &str, address: Ipv4Addr, id: &str) -> String {
    let names = |line: &str, name: &str| {
        let fields = line.split('#').next().unwrap_or_default();
        fields.split_whitespace().skip(1).any(|field| field == name)
    };
    let is_old_name = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() == 2 && fields[0] == address.to_string() && !address.is_loopback()
    };
    let mut lines: Vec<String> = hosts
        .lines()
        .filter(|line| !names(line, id) && !is_old_name(line))
        .map(str::to_owned)
        .collect();
    if !lines
        .iter()
        .any(|line| line.starts_with("127.") && names(line, "localhost"))
    {
        lines.insert(0, "127.0.0.1 localhost".to_owned());
    }
    let after_localhost = lines
        .iter()
        .position(|line| line.starts_with("127.") && names(line, "localhost"))
        .map_or(0, |position| position + 1);
    lines.insert(after_localhost, format!("{address} {id}"));
    lines.join("\n") + "\n"
}

fn write_resolver(root: &GuestRoot, setup: &MachineSetup) -> io::Result<()> {
    match &setup.network {
        Some(network) => resolver::write(root, network),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::with_machine;

    #[test]
    fn empty_file_gets_both_lines() {
        let hosts = with_machine("", [10, 0, 2, 15].into(), "dev");
        assert_eq!(hosts, "127.0.0.1 localhost\n10.0.2.15 dev\n");
    }

    #[test]
    fn machine_line_is_replaced_and_other_lines_are_kept() {
        let before = "127.0.0.1 localhost\n10.0.0.9 dev\n1.2.3.4 db # dev\n::1 localhost\n";
        let after = with_machine(before, [10, 0, 2, 15].into(), "dev");
        assert_eq!(
            after,
            "127.0.0.1 localhost\n10.0.2.15 dev\n1.2.3.4 db # dev\n::1 localhost\n"
        );
        assert_eq!(with_machine(&after, [10, 0, 2, 15].into(), "dev"), after);
        let renamed = with_machine(&after, [10, 0, 2, 15].into(), "new");
        assert_eq!(renamed, after.replace("10.0.2.15 dev", "10.0.2.15 new"));
    }
}
