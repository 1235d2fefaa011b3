//! The files that name the machine and tell it where to look names up.

use std::{io, net::Ipv4Addr, os::fd::AsFd};

use container_protocol::MachineSetup;

use super::root::{GuestRoot, descriptor_path};

const RESOLVER: &str = "/etc/resolv.conf";

/// Writes `/etc/hostname`, `/etc/hosts` and the resolver's configuration.
pub fn write(root: &GuestRoot, setup: &MachineSetup) -> io::Result<()> {
    root.make_directory("/etc")?;
    let hostname = format!("{}\n", setup.id);
    if root.read_or_empty("/etc/hostname")? != hostname {
        root.write("/etc/hostname", &hostname, 0o644)?;
    }
    let address = setup
        .network
        .as_ref()
        .map_or(Ipv4Addr::LOCALHOST, |network| network.address);
    let hosts = root.read_or_empty("/etc/hosts")?;
    let wanted = with_machine(&hosts, address, &setup.id);
    if hosts != wanted {
        root.write("/etc/hosts", &wanted, 0o644)?;
    }
    match &setup.network {
        Some(network) => write_resolver(root, network.dns),
        None => Ok(()),
    }
}

/// `hosts` with the machine's own line: directly behind `localhost` when it is new, in place of
/// an older one otherwise, which may have had another name or address. Other lines are the user's
/// and stay.
fn with_machine(hosts: &str, address: Ipv4Addr, id: &str) -> String {
    let names = |line: &str, name: &str| {
        let fields = line.split('#').next().unwrap_or_default();
        fields.split_whitespace().skip(1).any(|field| field == name)
    };
    let is_alone = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() == 2 && fields[0] == address.to_string() && !address.is_loopback()
    };
    let mut lines: Vec<String> = hosts
        .lines()
        .filter(|line| !names(line, id) && !is_alone(line))
        .map(str::to_owned)
        .collect();
    if !lines
        .iter()
        .any(|line| line.starts_with("127.") && names(line, "localhost"))
    {
        lines.insert(0, "127.0.0.1 localhost".to_owned());
    }
    let behind = lines
        .iter()
        .position(|line| line.starts_with("127.") && names(line, "localhost"))
        .map_or(0, |position| position + 1);
    lines.insert(behind, format!("{address} {id}"));
    lines.join("\n") + "\n"
}

/// Points the machine's resolver at `server`: through systemd-resolved's own configuration
/// where `/etc/resolv.conf` is its link and it is enabled, else in the file itself.
fn write_resolver(root: &GuestRoot, server: Ipv4Addr) -> io::Result<()> {
    let etc = root.directory("/etc")?;
    let link = std::fs::read_link(descriptor_path(etc.as_fd()).join("resolv.conf"));
    if link.is_ok_and(|target| target.to_string_lossy().contains("systemd/resolve")) {
        if root.exists("/etc/systemd/system/multi-user.target.wants/systemd-resolved.service")
            || root.exists("/etc/systemd/system/sysinit.target.wants/systemd-resolved.service")
        {
            root.make_directory("/run/systemd/resolved.conf.d")?;
            let configuration = format!("[Resolve]\nDNS={server}\n");
            return root.write(
                "/run/systemd/resolved.conf.d/container.conf",
                &configuration,
                0o644,
            );
        }
        rustix::fs::unlinkat(&etc, "resolv.conf", rustix::fs::AtFlags::empty())?;
    }
    root.write(RESOLVER, &format!("nameserver {server}\n"), 0o644)
}

#[cfg(test)]
mod tests {
    use super::with_machine;

    #[test]
    fn an_empty_file_gets_both_lines() {
        let hosts = with_machine("", [10, 0, 2, 15].into(), "dev");
        assert_eq!(hosts, "127.0.0.1 localhost\n10.0.2.15 dev\n");
    }

    #[test]
    fn the_users_lines_stay_and_the_machines_own_is_renewed() {
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
