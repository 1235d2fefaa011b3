//! Signals by number and by name.
#![allow(unsafe_code)]

use std::{io, str::FromStr};

use nix::{
    libc,
    sys::signal::{SigSet, Signal},
};

/// The first real-time signal that programs use, as glibc and the inits that document
/// `SIGRTMIN+n` count it.
pub const REALTIME_MIN: i32 = 34;

/// The number of a signal written as `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `RTMIN+3`.
pub fn number(word: &str) -> Option<i32> {
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
pub fn send(process: u32, number: i32) -> io::Result<()> {
    kill(process.cast_signed(), number)
}

/// Whether a process has a handler for a signal or blocks it to read it elsewhere (signalfd). The
/// first process of a PID namespace never hears any other (pid_namespaces(7)).
pub fn is_taken(process: u32, number: i32) -> io::Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    Ok(has_signal(&status, "SigCgt:", number) || has_signal(&status, "SigBlk:", number))
}

/// Whether a mask of `/proc/PID/status` has the signal.
fn has_signal(status: &str, mask: &str, number: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix(mask));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (number - 1) & 1 == 1)
}

/// Sends a signal to every process of the group that `leader` leads.
pub fn send_to_group(leader: u32, number: i32) -> io::Result<()> {
    kill(-process_group(leader)?, number)
}

/// Waits for a signal of `set`, which must be blocked, and takes it.
pub fn take(set: &SigSet) -> io::Result<i32> {
    // SAFETY: the set is a valid one for the length of the call, and no information on the signal
    // is asked for. The typed wrapper cannot name real-time signals.
    match unsafe { libc::sigwaitinfo(set.as_ref(), std::ptr::null_mut()) } {
        number @ 1.. => Ok(number),
        _ => Err(io::Error::last_os_error()),
    }
}

fn process_group(leader: u32) -> io::Result<i32> {
    match leader.cast_signed() {
        group @ 2.. => Ok(group),
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

fn kill(target: i32, number: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes two integers and touches no memory of ours. The typed wrappers
    // cannot name real-time signals.
    match unsafe { libc::kill(target, number) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::{has_signal, number};

    #[test]
    fn a_signal_is_found_in_its_mask() {
        let status = "SigBlk:\t0000002000000000\nSigCgt:\t0000000000000001\n";
        assert!(has_signal(status, "SigBlk:", 38));
        assert!(!has_signal(status, "SigBlk:", 37));
        assert!(has_signal(status, "SigCgt:", 1));
        assert!(!has_signal(status, "SigIgn:", 1));
    }

    #[test]
    fn names_numbers_and_real_time_signals() {
        assert_eq!(number("SIGTERM"), Some(15));
        assert_eq!(number("int"), Some(2));
        assert_eq!(number("9"), Some(9));
        assert_eq!(number("SIGRTMIN+3"), Some(37));
        assert_eq!(number("RTMIN"), Some(34));
        assert_eq!(number("0"), None);
        assert_eq!(number("SIGRTMIN+99"), None);
        assert_eq!(number("SIGNONSENSE"), None);
    }
}
