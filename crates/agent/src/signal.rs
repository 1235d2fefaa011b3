//! Parses, sends and receives signals, including the real-time ones that nix does not name.
#![allow(unsafe_code)]

use std::{io, str::FromStr};

use nix::{
    libc,
    sys::signal::{SigSet, Signal},
};

/// `SIGRTMIN` as glibc counts it, and so every init that documents `SIGRTMIN+n`. The kernel counts
/// from 32; glibc uses two itself.
pub(crate) const REALTIME_MIN: i32 = 34;

/// Parses a signal written as `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `RTMIN+3`.
pub(crate) fn parse(word: &str) -> Option<i32> {
    let word = word.trim().to_ascii_uppercase();
    if let Ok(number) = word.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = word.strip_prefix("SIG").unwrap_or(&word);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('+')?.parse::<i32>().ok()?
        };
        return (0..=30).contains(&offset).then_some(REALTIME_MIN + offset);
    }
    Signal::from_str(&format!("SIG{name}"))
        .ok()
        .map(|signal| signal as i32)
}

/// Sends a signal to one process.
pub(crate) fn send(process: u32, number: i32) -> io::Result<()> {
    kill(process.cast_signed(), number)
}

/// Returns whether a process has a handler for a signal, or blocks it to receive it otherwise
/// (signalfd). The first process of a PID namespace receives no other signal (pid_namespaces(7)).
pub(crate) fn is_handled(process: u32, number: i32) -> io::Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    Ok(has_signal(&status, "SigCgt:", number) || has_signal(&status, "SigBlk:", number))
}

/// Returns whether a signal was sent to a process, which has not received it.
pub(crate) fn is_pending(process: u32, number: i32) -> io::Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    Ok(has_signal(&status, "SigPnd:", number) || has_signal(&status, "ShdPnd:", number))
}

/// Returns whether a mask of `/proc/PID/status` contains the signal.
fn has_signal(status: &str, mask: &str, number: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix(mask));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (number - 1) & 1 == 1)
}

/// Sends a signal to every process of `leader`'s process group.
pub(crate) fn send_to_group(leader: u32, number: i32) -> io::Result<()> {
    kill(-process_group(leader)?, number)
}

/// Waits for a signal of `set`, which must be blocked, and returns its number.
pub(crate) fn wait(set: &SigSet) -> io::Result<i32> {
    // SAFETY: the set is valid during the call, and a null pointer for the information is allowed.
    // The typed wrapper does not support real-time signals.
    match unsafe { libc::sigwaitinfo(set.as_ref(), std::ptr::null_mut()) } {
        number @ 1.. => Ok(number),
        _ => Err(io::Error::last_os_error()),
    }
}

fn process_group(leader: u32) -> io::Result<i32> {
    match leader.cast_signed() {
        // kill(2) takes 0 for the caller's own group and -1 for all processes.
        group @ 2.. => Ok(group),
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

fn kill(target: i32, number: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes two integers and accesses no memory of this process. The typed wrappers
    // do not support real-time signals.
    match unsafe { libc::kill(target, number) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::{has_signal, parse};

    #[test]
    fn has_signal_reads_the_named_mask() {
        let status = "SigBlk:\t0000002000000000\nSigCgt:\t0000000000000001\n";
        assert!(has_signal(status, "SigBlk:", 38));
        assert!(!has_signal(status, "SigBlk:", 37));
        assert!(has_signal(status, "SigCgt:", 1));
        assert!(!has_signal(status, "SigIgn:", 1));
    }

    #[test]
    fn parse_accepts_names_numbers_and_real_time_signals() {
        assert_eq!(parse("SIGTERM"), Some(15));
        assert_eq!(parse("int"), Some(2));
        assert_eq!(parse("9"), Some(9));
        assert_eq!(parse("SIGRTMIN+3"), Some(37));
        assert_eq!(parse("RTMIN"), Some(34));
        assert_eq!(parse("0"), None);
        assert_eq!(parse("SIGRTMIN+99"), None);
        assert_eq!(parse("SIGNONSENSE"), None);
    }
}
