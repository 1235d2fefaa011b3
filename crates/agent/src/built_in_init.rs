//! The built-in init, for images without an init system: reaps orphans, and ends all processes
//! before the machine powers off or reboots.

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

use crate::signal;

/// Zeroth argument of the process, and its name in the machine.
pub(crate) const NAME: &str = "container-init";

/// Timeout for processes to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);

/// Interval at which remaining processes are looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// End of the machine that a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShutdownRequest {
    PowerOff,
    Reboot,
}

/// Returns the request that a signal stands for.
///
/// Covers the signals that busybox's `poweroff`, `halt` and `reboot` send (init/halt.c) and those
/// of systemd (systemd(1), "Signals"). A stop from the host sends SIGRTMIN+4.
fn shutdown_request(number: i32) -> Option<ShutdownRequest> {
    const POWER_OFF: i32 = signal::REALTIME_MIN + 4;
    const HALT: i32 = signal::REALTIME_MIN + 3;
    const RESTART: i32 = signal::REALTIME_MIN + 5;
    match number {
        POWER_OFF | HALT => Some(ShutdownRequest::PowerOff),
        RESTART => Some(ShutdownRequest::Reboot),
        _ => match Signal::try_from(number) {
            Ok(Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGPWR) => {
                Some(ShutdownRequest::PowerOff)
            }
            Ok(Signal::SIGTERM | Signal::SIGINT) => Some(ShutdownRequest::Reboot),
            _ => None,
        },
    }
}

/// Runs as init until the machine ends.
pub(crate) fn run() -> ExitCode {
    // The name in process lists. Not essential.
    let _ = nix::sys::prctl::set_name(c"container-init");
    // Blocked signals stay pending until they are received, and none ends this process.
    let all = SigSet::all();
    if let Err(error) = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None) {
        return fail("cannot block signals", &error.into());
    }
    if let Err(error) = make_lock_directory() {
        print(&format!("cannot create {LOCKS}: {error}"));
    }
    print("the machine is running");
    let request = loop {
        match signal::wait(&all) {
            Ok(number) => {
                reap();
                if let Some(request) = shutdown_request(number) {
                    break request;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return fail("cannot wait for a signal", &error),
        }
    };
    print("the machine is shutting down");
    end_processes();
    nix::unistd::sync();
    let mode = match request {
        ShutdownRequest::PowerOff => RebootMode::RB_POWER_OFF,
        ShutdownRequest::Reboot => RebootMode::RB_AUTOBOOT,
    };
    let Err(error) = reboot(mode);
    fail("cannot end the machine", &error.into())
}

/// Prints an error. The machine ends when this process exits.
fn fail(failure: &str, error: &io::Error) -> ExitCode {
    print(&format!("{failure}: {error}"));
    ExitCode::FAILURE
}

/// Directory of lock files. Programs expect it: other inits create it, and `/var/lock` is a link to
/// it.
const LOCKS: &str = "/run/lock";

fn make_lock_directory() -> io::Result<()> {
    fs::create_dir_all(LOCKS)?;
    fs::set_permissions(LOCKS, fs::Permissions::from_mode(0o1777))
}

/// Reaps all children that have ended.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// Asks every process of the machine to end, and kills those that have not after [`GRACE`].
fn end_processes() {
    // Fails if there is no other process.
    let _ = kill(ALL_OTHERS, Signal::SIGTERM);
    // Interactive shells ignore SIGTERM.
    for process in processes_with_terminal() {
        let _ = kill(process, Signal::SIGHUP);
    }
    // A stopped process handles neither until it continues.
    let _ = kill(ALL_OTHERS, Signal::SIGCONT);
    let deadline = Instant::now() + GRACE;
    while kill(ALL_OTHERS, None).is_ok() && Instant::now() < deadline {
        reap();
        std::thread::sleep(POLL_INTERVAL);
    }
    let _ = kill(ALL_OTHERS, Signal::SIGKILL);
    reap();
}

/// Returns the processes that have a controlling terminal.
fn processes_with_terminal() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"));
        stat.is_ok_and(|stat| has_terminal(&stat))
    })
    .map(Pid::from_raw)
    .collect()
}

/// Returns whether `/proc/PID/stat` names a terminal in its seventh field (proc_pid_stat(5)).
///
/// The second field, the program's name in parentheses, may contain spaces and parentheses, so
/// fields are counted after the last one.
fn has_terminal(stat: &str) -> bool {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let terminal = after_name.split_whitespace().nth(4);
    terminal.is_some_and(|number| number != "0")
}

/// Target of kill(2) for every process of this PID namespace except its init, this process.
const ALL_OTHERS: Pid = Pid::from_raw(-1);

/// Prints a line on the machine's console.
fn print(message: &str) {
    // A failing console is no reason to end the machine.
    let _ = nix::unistd::write(std::io::stdout(), format!("{NAME}: {message}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_terminal_accepts_any_program_name() {
        assert!(has_terminal("7 (a) b) S 1 7 7 34816 7 0"));
        assert!(!has_terminal("7 (sleep) S 1 7 7 0 -1 0"));
    }

    #[test]
    fn signals_of_busybox_and_systemd_are_understood() {
        assert_eq!(
            shutdown_request(Signal::SIGUSR2 as i32),
            Some(ShutdownRequest::PowerOff)
        );
        assert_eq!(
            shutdown_request(Signal::SIGTERM as i32),
            Some(ShutdownRequest::Reboot)
        );
        assert_eq!(shutdown_request(38), Some(ShutdownRequest::PowerOff));
        assert_eq!(shutdown_request(Signal::SIGCHLD as i32), None);
        assert_eq!(shutdown_request(Signal::SIGHUP as i32), None);
    }
}
