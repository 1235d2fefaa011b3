//! The `sysinit` programs of busybox init.

use std::fs;

use crate::{machine::GuestRoot, processes::children};

/// The program that busybox starts without an inittab (init/init.c, `parse_inittab`).
const DEFAULT_SYSINIT: &str = "/etc/init.d/rcS";

/// The `sysinit` lines of an inittab.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inittab {
    /// Words of each program, up to the first that is for a shell.
    programs: Vec<Vec<String>>,
}

impl Inittab {
    /// Reads the machine's inittab.
    pub(super) fn read(root: &GuestRoot) -> Inittab {
        Inittab::parse(&root.read_or_empty("/etc/inittab").unwrap_or_default())
    }

    fn parse(text: &str) -> Inittab {
        if text.trim().is_empty() {
            return Inittab {
                programs: vec![vec![DEFAULT_SYSINIT.to_owned()]],
            };
        }
        let programs = text.lines().filter_map(sysinit_process).map(words);
        Inittab {
            programs: programs.filter(|words| !words.is_empty()).collect(),
        }
    }

    /// Returns a number that changes while init runs, or nothing while a `sysinit` program runs.
    pub(super) fn activity(&self, init: u32) -> Option<u64> {
        let is_running = children(init).any(|child| {
            let arguments = arguments(child);
            // A child that has not executed its program yet has the arguments of init.
            self.is_sysinit(&arguments) || arguments == self::arguments(init)
        });
        if is_running {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{init}/status")).ok()?;
        let switches = status.lines().find_map(|line| {
            let number = line.strip_prefix("voluntary_ctxt_switches:")?;
            number.trim().parse().ok()
        })?;
        let is_sleeping = status.lines().any(|line| line.starts_with("State:\tS"));
        is_sleeping.then_some(switches)
    }

    /// Returns whether a process with these arguments is a `sysinit` program. A script's arguments
    /// follow those of its interpreter.
    fn is_sysinit(&self, arguments: &[String]) -> bool {
        self.programs.iter().any(|words| {
            arguments
                .windows(words.len())
                .any(|window| window == words.as_slice())
        })
    }
}

/// Returns the process of a `sysinit` line (`id:runlevels:action:process`).
pub(super) fn sysinit_process(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if line.starts_with('#') {
        return None;
    }
    let mut fields = line.splitn(4, ':').skip(2);
    let (action, process) = (fields.next()?, fields.next()?);
    // A leading hyphen asks for a login shell.
    (action.trim() == "sysinit").then(|| process.trim_start_matches('-').trim())
}

/// Returns the words of a process before the first that a shell would interpret.
fn words(process: &str) -> Vec<String> {
    process
        .split_whitespace()
        .take_while(|word| !word.contains(|letter| "~`!$^&*()=|\\{}[];\"'<>?".contains(letter)))
        .map(str::to_owned)
        .collect()
}

fn arguments(process: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_sysinit(inittab: &str, arguments: &[&str]) -> bool {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        Inittab::parse(inittab).is_sysinit(&arguments)
    }

    #[test]
    fn programs_are_recognized_by_their_words() {
        let openrc = "# x\n::sysinit:/sbin/openrc boot\n::wait:/sbin/openrc default\n";
        assert!(is_sysinit(openrc, &["/sbin/openrc", "boot"]));
        assert!(!is_sysinit(openrc, &["/sbin/openrc", "default"]));
        assert!(is_sysinit("", &["/bin/sh", "/etc/init.d/rcS"]));
        let shell = "::sysinit:/bin/mount -a > /dev/null\n";
        assert!(is_sysinit(shell, &["/bin/mount", "-a"]));
        assert!(!is_sysinit("::respawn:/bin/x\n", &["/bin/x"]));
    }
}
