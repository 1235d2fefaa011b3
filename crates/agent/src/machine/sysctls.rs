//! Kernel parameters that databases, container engines and Kubernetes need, and those of the
//! machine's `/etc/sysctl.d` (sysctl.d(5)).
//!
//! They are set before init starts, so the settings of an init win.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::root::GuestRoot;
use crate::kernel_log;

/// Directory of the kernel's parameters.
const PARAMETERS: &str = "/proc/sys";

/// Minimum values. Larger ones of the kernel are kept.
const AT_LEAST: [(&str, u64); 8] = [
    // Elasticsearch, OpenSearch and SonarQube refuse to start with less.
    ("vm/max_map_count", 262_144),
    // The defaults are for the programs of one person, and not for dozens of containers.
    ("fs/inotify/max_user_instances", 524_288),
    ("fs/inotify/max_user_watches", 524_288),
    ("fs/inotify/max_queued_events", 65_536),
    ("fs/aio-max-nr", 1_048_576),
    ("kernel/pid_max", 4_194_304),
    // Each container takes a key of its user.
    ("kernel/keys/maxkeys", 2_000),
    ("kernel/keys/maxbytes", 2_000_000),
];

/// Values that replace the kernel's.
const EXACTLY: [(&str, &str); 3] = [
    // Redis and PostgreSQL fork while they use most of the memory. systemd and kubelet expect the
    // others.
    ("vm/overcommit_memory", "1"),
    ("fs/file-max", "9223372036854775807"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];

/// Sets the parameters. A failure is only logged: not every kernel has all of them.
pub(super) fn set_all(root: &GuestRoot) {
    for (parameter, minimum) in AT_LEAST {
        let old = fs::read_to_string(Path::new(PARAMETERS).join(parameter)).ok();
        let old = old.and_then(|text| text.trim().parse::<u64>().ok());
        if old.is_some_and(|old| old < minimum) {
            set(parameter, &minimum.to_string());
        }
    }
    for (parameter, value) in EXACTLY {
        set(parameter, value);
    }
    for (parameter, value) in configured(root) {
        set(&parameter, &value);
    }
}

fn set(parameter: &str, value: &str) {
    match fs::write(Path::new(PARAMETERS).join(parameter), value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            kernel_log::error(&format!("cannot set {parameter} to {value}: {error}"));
        }
        _ => {}
    }
}

/// Returns the settings of the machine's own files, later ones after those that they replace.
///
/// Not every init reads them. Those of packages (`/usr/lib/sysctl.d`) are left to the init that
/// they are made for.
fn configured(root: &GuestRoot) -> Vec<(String, String)> {
    let files = root.entries("/etc/sysctl.d").unwrap_or_default();
    let files: BTreeMap<String, String> = files
        .into_iter()
        .filter(|name| name.ends_with(".conf"))
        .map(|name| (name.clone(), format!("/etc/sysctl.d/{name}")))
        .collect();
    let files = files.into_values();
    files
        .chain(["/etc/sysctl.conf".to_owned()])
        .filter_map(|path| root.read(&path).ok())
        .flat_map(|text| text.lines().filter_map(parse).collect::<Vec<_>>())
        .collect()
}

/// Parses a line `name = value`. Returns the parameter's path below [`PARAMETERS`]; nothing for
/// comments and for patterns, which only systemd knows.
fn parse(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    // A hyphen means that a failure is ignored.
    let (name, value) = line.trim_start_matches('-').split_once('=')?;
    let name = name.trim();
    // The first separator decides which of the two it is; the other one is part of names.
    let is_dotted = name
        .find(['.', '/'])
        .is_some_and(|at| name[at..].starts_with('.'));
    let swapped = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path = if is_dotted {
        name.chars().map(swapped).collect()
    } else {
        name.trim_start_matches('/').to_owned()
    };
    let is_inside = !path.split('/').any(|part| part.is_empty() || part == "..");
    (is_inside && !path.contains(['*', '?', '['])).then(|| (path, value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed_as_sysctl_does() {
        let parsed = |line: &str| parse(line).map(|(path, value)| format!("{path}={value}"));
        for (line, expected) in [
            ("vm.swappiness = 10", Some("vm/swappiness=10")),
            ("-vm.swappiness=10 ", Some("vm/swappiness=10")),
            (
                "net/ipv4/conf/eth0.5/forwarding=1",
                Some("net/ipv4/conf/eth0.5/forwarding=1"),
            ),
            (
                "net.ipv4.conf.eth0/5.forwarding=1",
                Some("net/ipv4/conf/eth0.5/forwarding=1"),
            ),
            (
                "kernel.core_pattern=|/bin/x = %p",
                Some("kernel/core_pattern=|/bin/x = %p"),
            ),
            ("# vm.swappiness=10", None),
            ("; vm.swappiness=10", None),
            ("net.ipv4.conf.*.forwarding=1", None),
            ("/../../etc/passwd=1", None),
            ("words", None),
            ("", None),
        ] {
            assert_eq!(parsed(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn later_files_come_last_and_sysctl_conf_after_them() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        root.make_directory("/etc/sysctl.d").unwrap();
        for (name, text) in [
            ("sysctl.d/90-b.conf", "a.b=2\n"),
            ("sysctl.d/10-a.conf", "a.b=1\n"),
            ("sysctl.d/README", "a.b=0\n"),
            ("sysctl.conf", "a.b=3\n"),
        ] {
            root.write(&format!("/etc/{name}"), text, 0o644).unwrap();
        }
        let values: Vec<String> = configured(&root).into_iter().map(|it| it.1).collect();
        assert_eq!(values, ["1", "2", "3"]);
    }
}
