//! Environment of a command: the image's variables, the machine's, those of the account, the
//! caller's and the requested ones, in this order.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use container_protocol::{HandedOn, OsText, Stdio};

use super::{
    locale::{Locales, UTF_8},
    terminfo::{self, Terminal},
    time_zone,
};
use crate::{machine::GuestRoot, search_path};

/// Variables of the machine (pam_env(8)).
const MACHINE: &str = "/etc/environment";

/// The machine's locale, in Debian and elsewhere (locale.conf(5)).
const LOCALE: [&str; 2] = ["/etc/default/locale", "/etc/locale.conf"];

/// Account that a command runs as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account<'a> {
    pub name: &'a str,
    pub home: &'a str,
    pub shell: &'a str,
}

/// Variables of a command.
#[derive(Debug, Default)]
pub(super) struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// Returns the variables of every command of this account.
    pub(super) fn new(root: &GuestRoot, image: &[String], account: Account<'_>) -> Environment {
        let mut environment = Environment::default();
        for (name, value) in image.iter().filter_map(|pair| pair.split_once('=')) {
            environment.set(name, value);
        }
        let machine = root.read(MACHINE).unwrap_or_default();
        for (name, value) in parse(&machine) {
            if name != "PATH" {
                environment.set(name, value);
            }
        }
        for text in LOCALE.iter().filter_map(|file| root.read(file).ok()) {
            for (name, value) in parse(&text).filter(|(name, _)| is_locale(name)) {
                environment.set(name, value);
            }
        }
        let paths = parse(&machine).filter(|(name, _)| *name == "PATH");
        let path = paths.map(|(_, value)| value).last();
        environment.set(
            "PATH",
            search_path::merged(search_path::of_image(image), path),
        );
        environment.set("HOME", account.home);
        environment.set("USER", account.name);
        environment.set("LOGNAME", account.name);
        environment.set("SHELL", account.shell);
        environment
    }

    /// Adds the caller's and the requested variables. Adapts those that were handed on.
    pub(super) fn add(
        &mut self,
        requested: &[(OsText, OsText)],
        handed_on: &HandedOn,
        machine: &KnownToMachine<'_>,
    ) {
        for (name, value) in requested {
            let (name, value) = (name.as_os_str(), value.as_os_str());
            let adapted = handed_on.names.iter().find(|other| name == other.as_str());
            match (adapted, value.to_str()) {
                (None, _) => self.set(name, value),
                (Some(name), Some(value)) => self.adapt(name, value, handed_on, machine),
                // No locale, terminal or time zone has such a name.
                (Some(_), None) => {}
            }
        }
        let has_locale = ["LANG", "LC_ALL"]
            .iter()
            .any(|name| self.get(name).is_some());
        if !has_locale && machine.locales.knows(UTF_8) {
            self.set("LANG", UTF_8);
        }
    }

    /// Sets a variable of the caller, or what stands for it in the machine.
    fn adapt(
        &mut self,
        name: &str,
        value: &str,
        handed_on: &HandedOn,
        machine: &KnownToMachine<'_>,
    ) {
        match name {
            "TERM" => self.set_terminal(value, handed_on.terminfo.as_deref(), machine),
            "TZ" => {
                let rule = handed_on.time_zone_rule.as_deref();
                if let Some(zone) = time_zone::adapt(machine.root, value, rule) {
                    self.set(name, zone);
                }
            }
            name if is_locale(name) => self.set_locale(name, value, &machine.locales),
            _ => self.set(name, value),
        }
    }

    /// Sets a locale variable to the caller's locale if the machine knows it, and else to UTF-8,
    /// unless the image or the machine has a language of its own.
    fn set_locale(&mut self, name: &str, value: &str, locales: &Locales<'_>) {
        if locales.knows(value) {
            self.set(name, value);
        } else if !value.is_empty()
            && (name != "LANG" || self.get(name).is_none())
            && locales.knows(UTF_8)
        {
            self.set(name, UTF_8);
        }
    }

    fn set_terminal(&mut self, name: &str, entry: Option<&[u8]>, machine: &KnownToMachine<'_>) {
        let home = self.get("HOME").and_then(OsStr::to_str).unwrap_or("/");
        match terminfo::adapt(machine.root, machine.running, name, home, entry) {
            Terminal::Known => self.set("TERM", name),
            Terminal::Provided => {
                let own = self.get("TERMINFO_DIRS").and_then(OsStr::to_str);
                let directories = terminfo::directories(own);
                self.set("TERM", name);
                self.set("TERMINFO_DIRS", directories);
            }
            Terminal::Unknown => self.set("TERM", terminfo::FALLBACK),
        }
    }

    /// Sets the terminal of a command that has one, unless the caller named it.
    pub(super) fn complete(&mut self, stdio: Stdio) {
        if matches!(stdio, Stdio::Terminal(_)) && self.get("TERM").is_none() {
            self.set("TERM", terminfo::FALLBACK);
        }
    }

    /// Sets a variable. One without a name is ignored.
    pub(super) fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        let name = name.into();
        if !name.is_empty() {
            self.variables.insert(name, value.into());
        }
    }

    /// Sets a variable that is not set yet.
    pub(super) fn set_missing(&mut self, name: &str, value: String) {
        if self.get(name).is_none() {
            self.set(name, value);
        }
    }

    fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
    }

    /// Returns all variables.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
        self.variables.iter()
    }
}

/// What the machine knows of locales, terminals and time zones.
#[derive(Debug)]
pub(super) struct KnownToMachine<'a> {
    /// The machine's disk.
    pub root: &'a GuestRoot,
    /// The machine as its init sees it; absent if init has ended.
    pub running: Option<&'a GuestRoot>,
    pub locales: Locales<'a>,
}

fn is_locale(name: &str) -> bool {
    name == "LANG" || name.starts_with("LC_")
}

/// Parses a file of variables in the way of pam_env: `NAME=value`, optionally after `export`, with
/// optional quotes around the value. A `#` begins a comment.
fn parse(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let line = match line.strip_prefix("export") {
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
            _ => line,
        };
        let (name, value) = line.split_once('=')?;
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let unquoted = ['"', '\''].iter().find_map(|quote| {
            let inner = value.strip_prefix(*quote)?;
            Some(inner.strip_suffix(*quote).unwrap_or(inner))
        });
        (!name.is_empty() && name.chars().all(is_name)).then(|| (name, unquoted.unwrap_or(value)))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ACCOUNT: Account<'static> = Account {
        name: "ada",
        home: "/home/ada",
        shell: "/bin/sh",
    };

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, GuestRoot) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = GuestRoot::at(directory.path()).unwrap();
        (directory, root)
    }

    fn adapted(root: &GuestRoot, caller: &[(&str, &str)]) -> Environment {
        let known = KnownToMachine {
            root,
            running: None,
            locales: Locales::new(root),
        };
        let handed_on = HandedOn {
            names: caller.iter().map(|(name, _)| (*name).to_owned()).collect(),
            terminfo: None,
            time_zone_rule: Some("JST-9".to_owned()),
        };
        let caller: Vec<(OsText, OsText)> = caller
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let mut environment = Environment::new(root, &[], ACCOUNT);
        environment.add(&caller, &handed_on, &known);
        environment
    }

    #[test]
    fn later_sources_take_precedence() {
        let files = [(
            "etc/environment",
            "# x\nA=machine\nexport B='two words' # c\n1 2=3\nHOME=/x\n",
        )];
        let (_directory, root) = machine(&files);
        let image = ["A=image", "C=image", "PATH=/opt/bin", "=x", "HOME=/root"].map(str::to_owned);
        let mut environment = Environment::new(&root, &image, ACCOUNT);
        let known = KnownToMachine {
            root: &root,
            running: None,
            locales: Locales::new(&root),
        };
        environment.add(&[("C".into(), "mine".into())], &HandedOn::default(), &known);
        let get = |name| environment.get(name).and_then(OsStr::to_str);
        assert_eq!(get("A"), Some("machine"));
        assert_eq!(get("B"), Some("two words"));
        assert_eq!(get("C"), Some("mine"));
        assert_eq!(get("HOME"), Some("/home/ada"));
        assert!(get("PATH").unwrap().starts_with("/opt/bin:/usr/local/sbin"));
        assert_eq!(get("LANG"), Some("C.UTF-8"));
        assert_eq!(get(""), None);
    }

    #[test]
    fn unknown_locales_become_utf_8_and_unknown_zones_their_rule() {
        let files = [("usr/lib/locale/C.utf8/LC_CTYPE", "")];
        let (_directory, root) = machine(&files);
        let caller = [
            ("LANG", "de_DE.UTF-8"),
            ("LC_TIME", "ja_JP.UTF-8"),
            ("TZ", "Asia/Tokyo"),
        ];
        let environment = adapted(&root, &caller);
        let get = |name| environment.get(name).and_then(OsStr::to_str);
        assert_eq!(get("LANG"), Some("C.UTF-8"));
        assert_eq!(get("LC_TIME"), Some("C.UTF-8"));
        assert_eq!(get("TZ"), Some("JST-9"));

        let files = [
            ("usr/lib/locale/C.utf8/LC_CTYPE", ""),
            ("usr/lib/locale/fr_FR.utf8/LC_CTYPE", ""),
            ("etc/default/locale", "LANG=\"fr_FR.UTF-8\"\nPATH=/never\n"),
            ("usr/share/zoneinfo/Asia/Tokyo", ""),
        ];
        let (_directory, root) = machine(&files);
        let environment = adapted(&root, &caller);
        let get = |name| environment.get(name).and_then(OsStr::to_str);
        assert_eq!(get("LANG"), Some("fr_FR.UTF-8"));
        assert_eq!(get("TZ"), Some("Asia/Tokyo"));
        assert!(!get("PATH").unwrap().contains("never"));
        let environment = adapted(&root, &[("LANG", "C")]);
        assert_eq!(environment.get("LANG").unwrap(), "C");
    }
}
