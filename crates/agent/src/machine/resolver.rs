//! The configuration of the machine's resolver, which follows the host's.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
};

use container_protocol::{GuestNetwork, ResolverSettings, frame, mux::Stream};
use rustix::process::{Pid, Signal, kill_process};

use super::root::{GuestRoot, descriptor_path};
use crate::{kernel_log, paths::MACHINE_CGROUP};

/// The file that most programs read.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Configuration of systemd-resolved for this boot.
const RESOLVED_DIRECTORY: &str = "/run/systemd/resolved.conf.d";
const RESOLVED_CONF: &str = "/run/systemd/resolved.conf.d/container.conf";

/// Cgroup of systemd-resolved, below the machine's.
const RESOLVED_CGROUP: &str = "system.slice/systemd-resolved.service/cgroup.procs";

/// The resolver's configuration of this boot.
#[derive(Debug)]
pub(crate) struct Resolver {
    server: Ipv4Addr,
    /// The settings that were last written.
    settings: Mutex<ResolverSettings>,
}

impl Resolver {
    /// Returns the configuration as [`write()`] has written it.
    pub(crate) fn new(network: &GuestNetwork) -> Resolver {
        Resolver {
            server: network.dns,
            settings: Mutex::new(network.resolver.clone()),
        }
    }

    /// Receives changed settings from the host and applies them.
    pub(crate) async fn serve(&self, mut stream: Stream) {
        if let Ok(settings) = frame::read(&mut stream).await
            && let Err(error) = self.update(settings)
        {
            kernel_log::error(&format!(
                "cannot change the machine's resolver configuration: {error}"
            ));
        }
    }

    /// Applies changed settings. A `resolv.conf` that another program has written since is kept.
    fn update(&self, settings: ResolverSettings) -> io::Result<()> {
        let root = GuestRoot::open()?;
        let mut last = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == settings {
            return Ok(());
        }
        write_resolved(&root, self.server, &settings)?;
        if is_resolved_used(&root)? {
            restart_resolved();
        } else if root.read_or_empty(RESOLV_CONF)? == resolv_conf(self.server, &last) {
            root.write(RESOLV_CONF, &resolv_conf(self.server, &settings), 0o644)?;
        }
        *last = settings;
        Ok(())
    }
}

/// Makes the network's name server the machine's: in the configuration of systemd-resolved, and in
/// `/etc/resolv.conf` unless systemd-resolved is enabled and owns that file.
pub(super) fn write(root: &GuestRoot, network: &GuestNetwork) -> io::Result<()> {
    write_resolved(root, network.dns, &network.resolver)?;
    if is_resolved_used(root)? {
        return Ok(());
    }
    if has_link_to_resolved(root)? {
        // The link's target does not exist without systemd-resolved.
        let etc = root.directory("/etc")?;
        rustix::fs::unlinkat(&etc, "resolv.conf", rustix::fs::AtFlags::empty())?;
    }
    let wanted = resolv_conf(network.dns, &network.resolver);
    root.ensure(RESOLV_CONF, &wanted, 0o644)
}

fn is_resolved_used(root: &GuestRoot) -> io::Result<bool> {
    let is_enabled = ["multi-user", "sysinit"].iter().any(|target| {
        root.exists(&format!(
            "/etc/systemd/system/{target}.target.wants/systemd-resolved.service"
        ))
    });
    Ok(is_enabled && has_link_to_resolved(root)?)
}

fn has_link_to_resolved(root: &GuestRoot) -> io::Result<bool> {
    let etc = root.directory("/etc")?;
    let link = fs::read_link(descriptor_path(etc.as_fd()).join("resolv.conf"));
    Ok(link.is_ok_and(|target| target.to_string_lossy().contains("systemd/resolve")))
}

/// Writes the configuration of systemd-resolved, also for one that is installed later. The file is
/// of this boot only.
fn write_resolved(
    root: &GuestRoot,
    server: Ipv4Addr,
    settings: &ResolverSettings,
) -> io::Result<()> {
    root.make_directory(RESOLVED_DIRECTORY)?;
    root.ensure(RESOLVED_CONF, &resolved_conf(server, settings), 0o644)
}

/// Ends systemd-resolved, which reads its configuration only at its start. systemd starts it again
/// at once.
fn restart_resolved() {
    let processes = fs::read_to_string(format!("{MACHINE_CGROUP}/{RESOLVED_CGROUP}"));
    for process in processes.unwrap_or_default().lines() {
        if let Some(process) = process.parse().ok().and_then(Pid::from_raw) {
            // Fails if it has ended.
            let _ = kill_process(process, Signal::TERM);
        }
    }
}

fn resolv_conf(server: Ipv4Addr, settings: &ResolverSettings) -> String {
    let mut text = format!("nameserver {server}\n");
    for (keyword, words) in [("search", &settings.search), ("options", &settings.options)] {
        if !words.is_empty() {
            text += &format!("{keyword} {}\n", words.join(" "));
        }
    }
    text
}

/// The options have no equivalent there. Names of other machines have a single label.
fn resolved_conf(server: Ipv4Addr, settings: &ResolverSettings) -> String {
    let mut text = format!("[Resolve]\nDNS={server}\nResolveUnicastSingleLabel=yes\n");
    if !settings.search.is_empty() {
        text += &format!("Domains={}\n", settings.search.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_and_options_are_written_if_there_are_any() {
        let server = [198, 19, 0, 1].into();
        let none = ResolverSettings::default();
        assert_eq!(resolv_conf(server, &none), "nameserver 198.19.0.1\n");
        let resolved = "[Resolve]\nDNS=198.19.0.1\nResolveUnicastSingleLabel=yes\n";
        assert_eq!(resolved_conf(server, &none), resolved);
        let some = ResolverSettings {
            search: vec!["a.test".to_owned(), "b.test".to_owned()],
            options: vec!["ndots:2".to_owned()],
        };
        assert_eq!(
            resolv_conf(server, &some),
            "nameserver 198.19.0.1\nsearch a.test b.test\noptions ndots:2\n"
        );
        assert_eq!(
            resolved_conf(server, &some),
            format!("{resolved}Domains=a.test b.test\n")
        );
    }
}
