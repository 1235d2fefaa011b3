//! Variables that commands get because the caller has them.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use container_machine::{MachineId, SshAgentUse};
use container_protocol::{HandedOn, OsText, SSH_AUTH_SOCKET};

use crate::values::Variable;

/// Variables that commands get unchanged.
const UNCHANGED: [&str; 11] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "COLORTERM",
];

/// Variables that the machine adapts to the locales, terminals and time zones that it knows. Those
/// that begin with `LC_` belong to them.
const ADAPTED: [&str; 3] = ["LANG", "TERM", "TZ"];

/// Directories of terminfo entries, in ncurses' order (terminfo(5)).
const TERMINFO: [&str; 5] = [
    "/etc/terminfo",
    "/lib/terminfo",
    "/usr/share/terminfo",
    "/usr/lib/terminfo",
    "/usr/local/share/terminfo",
];

/// Maximum size of a terminfo entry in bytes (term(5)).
const MAX_TERMINFO: usize = 32 << 10;

/// The system's time zones.
const ZONES: &str = "/usr/share/zoneinfo";

/// Environment of a command: the caller's variables, then the requested ones.
pub(super) struct CallerVariables {
    callers: Vec<(OsText, OsText)>,
    requested: Vec<(OsText, OsText)>,
    /// Names of adapted variables that were not requested.
    adapted: Vec<String>,
}

impl CallerVariables {
    /// Returns the caller's variables, without the SSH agent.
    pub(super) fn new() -> CallerVariables {
        let mut callers: Vec<(OsText, OsText)> = Vec::new();
        let mut adapted = Vec::new();
        for (name, value) in env::vars_os() {
            let Some(text) = name.to_str() else { continue };
            if ADAPTED.contains(&text) || text.starts_with("LC_") {
                adapted.push(text.to_owned());
            } else if !UNCHANGED.contains(&text) {
                continue;
            }
            callers.push((name.into(), value.into()));
        }
        CallerVariables {
            callers,
            requested: Vec::new(),
            adapted,
        }
    }

    /// Leaves out the caller's variables, as an isolated machine requires, but for the name of the
    /// terminal, without which programs cannot use it.
    pub(super) fn isolate(&mut self) {
        let terminal = OsText::from("TERM");
        self.callers.retain(|(name, _)| *name == terminal);
        self.adapted.retain(|name| name == "TERM");
    }

    /// Adds the variable for the caller's SSH agent, before the requested ones.
    pub(super) fn add_ssh_agent(&mut self) {
        self.callers
            .insert(0, ("SSH_AUTH_SOCK".into(), SSH_AUTH_SOCKET.into()));
    }

    /// Adds requested variables, which the machine does not adapt. A variable without a value gets
    /// the caller's, and is left out if the caller has none.
    pub(super) fn request(&mut self, variables: impl IntoIterator<Item = Variable>) {
        for Variable { name, value } in variables {
            let Some(value) = value.or_else(|| env::var_os(&name)) else {
                continue;
            };
            self.adapted
                .retain(|other| OsStr::new(other) != name.as_os_str());
            self.requested.push((name.into(), value.into()));
        }
    }

    /// Returns the environment for a command in this machine, and what the machine adapts.
    pub(super) fn for_machine(mut self, id: &MachineId) -> (Vec<(OsText, OsText)>, HandedOn) {
        let mut environment = self.callers;
        environment.append(&mut self.requested);
        environment.push(("CONTAINER_MACHINE_ID".into(), id.to_string().into()));
        let adapted = |name: &str| {
            let is_adapted = self.adapted.iter().any(|other| other == name);
            env::var_os(name).filter(|_| is_adapted)
        };
        let handed_on = HandedOn {
            terminfo: adapted("TERM").and_then(|name| terminfo(&name)),
            time_zone_rule: adapted("TZ").and_then(|zone| time_zone_rule(&zone)),
            names: self.adapted,
        };
        (environment, handed_on)
    }
}

/// The caller's SSH agent that a machine may use, by the socket where it listens.
#[derive(Debug)]
pub(super) enum OfferedAgent {
    /// Until the command ends.
    Lent(PathBuf),
    /// Until the machine stops.
    Given(PathBuf),
}

/// Returns the caller's SSH agent, if there is one and the machine may use it. `is_requested` is
/// the caller's own decision.
pub(super) fn offered_agent(
    allowed: SshAgentUse,
    is_requested: Option<bool>,
) -> Option<OfferedAgent> {
    let socket = ssh_agent()?;
    match (is_requested, allowed) {
        (Some(false), _) | (None, SshAgentUse::Never) => None,
        (_, SshAgentUse::Always) => Some(OfferedAgent::Given(socket)),
        (Some(true), _) | (None, SshAgentUse::Run) => Some(OfferedAgent::Lent(socket)),
    }
}

fn ssh_agent() -> Option<PathBuf> {
    let socket = env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty())?;
    std::path::absolute(socket).ok()
}

/// Returns the compiled entry of this terminal, from the first directory that has it.
fn terminfo(name: &OsStr) -> Option<Vec<u8>> {
    let first = *name.as_bytes().first()?;
    if first == b'.' || name.as_bytes().contains(&b'/') {
        return None;
    }
    let own = env::var_os("TERMINFO").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".terminfo"));
    let listed = env::var_os("TERMINFO_DIRS").unwrap_or_default();
    let directories = own
        .into_iter()
        .chain(home)
        .chain(env::split_paths(&listed))
        .chain(TERMINFO.map(PathBuf::from));
    directories
        .filter(|directory| directory.is_absolute())
        .flat_map(|directory| {
            // The second form is for file systems that ignore case.
            [
                directory.join(OsStr::from_bytes(&[first])).join(name),
                directory.join(format!("{first:x}")).join(name),
            ]
        })
        .filter_map(|path| fs::read(path).ok())
        .find(|entry| entry.len() <= MAX_TERMINFO)
}

/// Returns the rule of a named time zone: the last line of its file (RFC 9636, section 3.3).
fn time_zone_rule(zone: &OsStr) -> Option<String> {
    let name = zone.as_bytes().strip_prefix(b":");
    let name = OsStr::from_bytes(name.unwrap_or(zone.as_bytes()));
    if name.is_empty() {
        return None;
    }
    let zones = env::var_os("TZDIR").unwrap_or_else(|| OsString::from(ZONES));
    let file = fs::read(Path::new(&zones).join(name)).ok()?;
    if !file.starts_with(b"TZif") {
        return None;
    }
    let rule = file.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n');
    let rule = std::str::from_utf8(rule.into_iter().next()?).ok()?;
    let is_rule = !rule.is_empty() && rule.chars().all(|letter| letter.is_ascii_graphic());
    is_rule.then(|| rule.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_and_time_zones_of_the_host_are_found() {
        assert!(terminfo(OsStr::new("xterm")).is_some_and(|entry| entry.len() > 100));
        for name in ["", "../x", "no-such-terminal", "."] {
            assert_eq!(terminfo(OsStr::new(name)), None, "{name}");
        }
        for (zone, rule) in [
            ("Asia/Tokyo", Some("JST-9")),
            (":Europe/Berlin", Some("CET-1CEST,M3.5.0,M10.5.0/3")),
            ("no/such/zone", None),
            ("", None),
        ] {
            assert_eq!(time_zone_rule(OsStr::new(zone)).as_deref(), rule, "{zone}");
        }
    }

    #[test]
    fn requested_variables_are_not_adapted() {
        let mut variables = CallerVariables {
            callers: vec![("LANG".into(), "de_DE.UTF-8".into())],
            requested: Vec::new(),
            adapted: vec!["LANG".to_owned()],
        };
        let variable = |name: &str, value: Option<&str>| Variable {
            name: name.into(),
            value: value.map(Into::into),
        };
        variables.request([variable("LANG", Some("C")), variable("NOT_SET_HERE", None)]);
        assert_eq!(variables.adapted, [""; 0]);
        let (environment, _) = variables.for_machine(&"dev".parse().unwrap());
        let names: Vec<&str> = environment
            .iter()
            .filter_map(|it| it.0.as_os_str().to_str())
            .collect();
        assert_eq!(names, ["LANG", "LANG", "CONTAINER_MACHINE_ID"]);
    }

    #[test]
    fn an_isolated_machine_gets_requested_variables_only() {
        let caller = |name: &str| (OsText::from(name), OsText::from("value"));
        let mut variables = CallerVariables {
            callers: ["TERM", "http_proxy", "LANG"].map(caller).into(),
            requested: Vec::new(),
            adapted: vec!["TERM".to_owned(), "LANG".to_owned()],
        };
        variables.request([Variable {
            name: "ASKED".into(),
            value: Some("for".into()),
        }]);
        variables.isolate();
        let (environment, handed_on) = variables.for_machine(&"dev".parse().unwrap());
        let names: Vec<&str> = environment
            .iter()
            .filter_map(|it| it.0.as_os_str().to_str())
            .collect();
        assert_eq!(names, ["TERM", "ASKED", "CONTAINER_MACHINE_ID"]);
        assert_eq!(handed_on.names, ["TERM"]);
    }
}
