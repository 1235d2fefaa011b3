//! systemd-resolved as the resolver for machines: its configuration file, and when it can be used.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use container_machine::{DnsDomain, RESOLVED_DIRECTORY};

use super::root_step::RootStep;

/// Reason why systemd-resolved cannot be used for machines on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolvedUnusable {
    /// `resolvectl` is missing or cannot reach the daemon.
    #[error("systemd-resolved is not running")]
    NotRunning,
    /// Another global name server is configured, and would be asked in place of the machines'
    /// server.
    #[error("systemd-resolved sends all queries to the global name server {0}")]
    GlobalServer(String),
    /// No network link has name servers, so the machines' server would get all queries.
    #[error(
        "systemd-resolved has no name servers from network links, and would send all queries to the machines' name server"
    )]
    NoLinkServers,
}

/// Checks that systemd-resolved keeps resolving other names once `server` is added.
///
/// systemd-resolved uses an added global server for every name, beside those of the network links
/// and in place of its fallback servers. Other names are resolved as before only if links have
/// servers.
pub(super) fn check(server: SocketAddr) -> Result<(), ResolvedUnusable> {
    let output = Command::new("resolvectl").arg("dns").output();
    let output = match output {
        Ok(output) if output.status.success() => output.stdout,
        _ => return Err(ResolvedUnusable::NotRunning),
    };
    check_servers(&String::from_utf8_lossy(&output), server)
}

/// Checks the output of `resolvectl dns`: a line `Global: SERVER …`, and for each link a line
/// `Link 2 (eth0): SERVER …`.
fn check_servers(output: &str, server: SocketAddr) -> Result<(), ResolvedUnusable> {
    let mut has_link_server = false;
    for line in output.lines() {
        let Some((scope, servers)) = line.split_once(": ") else {
            continue;
        };
        let mut servers = servers.split_whitespace();
        if scope.trim() == "Global" {
            let ours = server.to_string();
            if let Some(other) = servers.find(|it| *it != ours) {
                return Err(ResolvedUnusable::GlobalServer(other.to_owned()));
            }
        } else {
            has_link_server |= servers.next().is_some();
        }
    }
    if has_link_server {
        Ok(())
    } else {
        Err(ResolvedUnusable::NoLinkServers)
    }
}

/// Returns the path of the configuration file for a domain (resolved.conf(5)).
pub(super) fn configuration_path(server: SocketAddr, domain: &DnsDomain) -> PathBuf {
    let port = server.port();
    Path::new(RESOLVED_DIRECTORY).join(format!("container-{port}-{domain}.conf"))
}

/// Returns the content of the configuration file.
pub(super) fn configuration(server: SocketAddr, domain: &DnsDomain) -> String {
    // `~` makes it a routing domain: it selects the server, and is not a search domain.
    format!(
        "# Made by `container system dns create {domain}`; `container system dns delete {domain}` undoes it.\n[Resolve]\nDNS={server}\nDomains=~{domain}\n"
    )
}

/// Returns the step that makes systemd-resolved read its configuration.
pub(super) fn reload() -> RootStep {
    let words = ["systemctl", "reload-or-restart", "systemd-resolved"];
    RootStep::Run(words.map(str::to_owned).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolved_is_used_only_if_other_names_resolve_as_before() {
        let ours: SocketAddr = "127.19.0.1:20000".parse().unwrap();
        for good in [
            "Global:\nLink 2 (eth0): 192.0.2.1 192.0.2.2\nLink 3 (wlan0):\n",
            "         Global: 127.19.0.1:20000\nLink 2 (eth0): 192.0.2.1\n",
        ] {
            assert_eq!(check_servers(good, ours), Ok(()), "{good}");
        }
        for bad in [
            "",
            "Global:\nLink 2 (eth0):\n",
            "Global: 127.19.0.1:20000\n",
            "Global: 192.0.2.1\nLink 2 (eth0): 192.0.2.1\n",
        ] {
            assert!(check_servers(bad, ours).is_err(), "{bad}");
        }
    }
}
