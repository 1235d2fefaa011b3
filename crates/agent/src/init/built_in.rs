//! The agent's own init, for images that have no init system: collects orphans, and ends the
//! machine in order.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    process::ExitCode,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        reboot::{RebootMode, reboot},
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::commands::signal;

/// The process's zeroth argument, and so its name in the machine.
pub const NAME: &str = "container-init";

/// How long processes may take to end when they are told to.
const GRACE: Duration = Duration::from_secs(20);

/// How often it is looked whether they have.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    PowerOff,
    Reboot,
}

/// What a signal means, as busybox's `poweroff`, `halt` and `reboot` send it to any init
/// (busybox, init/halt.c), and as systemd takes it (systemd(1), "Signals"). The latter's
/// SIGRTMIN+4 is what a stop from the host sends.
fn meaning(number: i32) -> Option<Ending> {
    const POWER_OFF: i32 = signal::REALTIME_MIN + 4;
    const HALT: i32 = signal::REALTIME_MIN + 3;
    const RESTART: i32 = signal::REALTIME_MIN + 5;
    match number {
        POWER_OFF | HALT => Some(Ending::PowerOff),
        RESTART => Some(Ending::Reboot),
        _ => match Signal::try_from(number) {
            Ok(Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGPWR) => Some(Ending::PowerOff),
            Ok(Signal::SIGTERM | Signal::SIGINT) => Some(Ending::Reboot),
            _ => None,
        },
    }
}

/// Is init until the machine ends.
pub fn run() -> ExitCode {
    // What process lists show. A name that is not taken does no harm.
    let _ = nix::sys::prctl::set_name(c"container-init");
    // Signals wait to be taken, and none of them ends this process.
    let all = SigSet::all();
    if let Err(error) = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None) {
        return give_up("blocking signals", &error.into());
    }
    if let Err(error) = make_lock_directory() {
        say(&format!("making {LOCKS}: {error}"));
    }
    say("the machine is up");
    let ending = loop {
        match signal::take(&all) {
            Ok(number) => {
                collect();
                if let Some(ending) = meaning(number) {
                    break ending;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return give_up("waiting for a signal", &error),
        }
    };
    say("the machine ends");
    end_processes();
    nix::unistd::sync();
    let mode = match ending {
        Ending::PowerOff => RebootMode::RB_POWER_OFF,
        Ending::Reboot => RebootMode::RB_AUTOBOOT,
    };
    let Err(error) = reboot(mode);
    give_up("ending the machine", &error.into())
}

/// Tells what failed; the machine ends with this process.
fn give_up(doing: &str, error: &io::Error) -> ExitCode {
    say(&format!("{doing}: {error}"));
    ExitCode::FAILURE
}

/// Every other init makes it, and `/var/lock` leads to it.
const LOCKS: &str = "/run/lock";

fn make_lock_directory() -> io::Result<()> {
    fs::create_dir_all(LOCKS)?;
    fs::set_permissions(LOCKS, fs::Permissions::from_mode(0o1777))
}

/// Takes the exit statuses of all children that have ended.
fn collect() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// Tells every process of the machine to end, and ends those that do not.
fn end_processes() {
    // Fails where there is none left.
    let _ = kill(EVERYONE, Signal::SIGTERM);
    // An interactive shell ignores that.
    for process in on_terminals() {
        let _ = kill(process, Signal::SIGHUP);
    }
    let _ = kill(EVERYONE, Signal::SIGCONT);
    let deadline = Instant::now() + GRACE;
    while kill(EVERYONE, None).is_ok() && Instant::now() < deadline {
        collect();
        std::thread::sleep(LOOK_AGAIN);
    }
    let _ = kill(EVERYONE, Signal::SIGKILL);
    collect();
}

/// The processes that have a controlling terminal.
fn on_terminals() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"));
        stat.is_ok_and(|stat| has_terminal(&stat))
    })
    .map(Pid::from_raw)
    .collect()
}

/// Whether `/proc/PID/stat` names a terminal: the seventh field, and the second one, in
/// parentheses, may hold anything (proc_pid_stat(5)).
fn has_terminal(stat: &str) -> bool {
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let terminal = behind_name.split_whitespace().nth(4);
    terminal.is_some_and(|number| number != "0")
}

/// Every process of this PID namespace but its first one, which is this (kill(2)).
const EVERYONE: Pid = Pid::from_raw(-1);

/// Prints on the machine's console.
fn say(message: &str) {
    // A console that takes nothing is no reason to end.
    let _ = nix::unistd::write(std::io::stdout(), format!("{NAME}: {message}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_found_behind_any_name() {
        assert!(has_terminal("7 (a) b) S 1 7 7 34816 7 0"));
        assert!(!has_terminal("7 (sleep) S 1 7 7 0 -1 0"));
    }

    #[test]
    fn signals_mean_what_other_inits_take_them_for() {
        assert_eq!(meaning(Signal::SIGUSR2 as i32), Some(Ending::PowerOff));
        assert_eq!(meaning(Signal::SIGTERM as i32), Some(Ending::Reboot));
        assert_eq!(meaning(38), Some(Ending::PowerOff));
        assert_eq!(meaning(Signal::SIGCHLD as i32), None);
        assert_eq!(meaning(Signal::SIGHUP as i32), None);
    }
}
