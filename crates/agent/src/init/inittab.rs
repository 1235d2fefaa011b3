//! The programs of an inittab that init waits for.

use std::fs;

use crate::{machine::GuestRoot, processes::children};

/// Action of the programs that init runs first, and waits for.
pub(super) const SYSINIT: &str = "sysinit";

/// Action of the programs that init waits for when it enters a runlevel.
pub(super) const WAIT: &str = "wait";

/// The program that busybox starts without an inittab (init/init.c, `parse_inittab`).
const DEFAULT_SYSINIT: &str = "/etc/init.d/rcS";

/// The lines of an inittab with one action.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inittab {
    /// Words of each program, up to the first that is for a shell.
    programs: Vec<Vec<String>>,
}

impl Inittab {
    /// Reads the lines with an action from the machine's inittab.
    pub(super) fn read(root: &GuestRoot, action: &str) -> Inittab {
        let text = root.read_or_empty("/etc/inittab").unwrap_or_default();
        Inittab::parse(&text, action)
    }

    fn parse(text: &str, action: &str) -> Inittab {
        if text.trim().is_empty() && action == SYSINIT {
            return Inittab {
                programs: vec![vec![DEFAULT_SYSINIT.to_owned()]],
            };
        }
        let processes = text.lines().filter_map(|line| process(line, action));
        let programs = processes.map(words);
        Inittab {
            programs: programs.filter(|words| !words.is_empty()).collect(),
        }
    }

    /// Returns a number that changes while init runs, or nothing while one of the programs runs.
    pub(super) fn activity(&self, init: u32) -> Option<u64> {
        let is_running = children(init).any(|child| {
            let arguments = arguments(child);
            // A child that has not executed its program yet has the arguments of init.
            self.has(&arguments) || arguments == self::arguments(init)
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

    /// Returns whether a process with these arguments is one of the programs. A script's arguments
    /// follow those of its interpreter.
    fn has(&self, arguments: &[String]) -> bool {
        self.programs.iter().any(|words| {
            arguments
                .windows(words.len())
                .any(|window| window == words.as_slice())
        })
    }
}

/// Returns the process of a line with an action (`id:runlevels:action:process`).
pub(super) fn process<'a>(line: &'a str, action: &str) -> Option<&'a str> {
    let line = line.trim_start();
    if line.starts_with('#') {
        return None;
    }
    let mut fields = line.splitn(4, ':').skip(2);
    let (of_line, process) = (fields.next()?, fields.next()?);
    // A leading hyphen asks for a login shell.
    (of_line.trim() == action).then(|| process.trim_start_matches('-').trim())
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

    fn has(inittab: &str, action: &str, arguments: &[&str]) -> bool {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        Inittab::parse(inittab, action).has(&arguments)
    }

    fn is_sysinit(inittab: &str, arguments: &[&str]) -> bool {
        has(inittab, SYSINIT, arguments)
    }

    #[test]
    fn programs_are_recognized_by_their_words() {
        let openrc = "# x\n::sysinit:/sbin/openrc boot\n::wait:/sbin/openrc default\n";
        assert!(is_sysinit(openrc, &["/sbin/openrc", "boot"]));
        assert!(!is_sysinit(openrc, &["/sbin/openrc", "default"]));
        assert!(has(openrc, WAIT, &["/sbin/openrc", "default"]));
        let classic = "l2:2:wait:/etc/init.d/rc 2\n";
        assert!(has(classic, WAIT, &["/bin/sh", "/etc/init.d/rc", "2"]));
        assert!(!has("", WAIT, &["/bin/sh", "/etc/init.d/rcS"]));
        assert!(is_sysinit("", &["/bin/sh", "/etc/init.d/rcS"]));
        let shell = "::sysinit:/bin/mount -a > /dev/null\n";
        assert!(is_sysinit(shell, &["/bin/mount", "-a"]));
        assert!(!is_sysinit("::respawn:/bin/x\n", &["/bin/x"]));
    }
}
