//! The processor time of a process.

use std::{fs, time::Duration};

/// Fields of proc_pid_stat(5) after the name of the program, which ends with the last parenthesis:
/// user and kernel time in clock ticks.
const USER_TIME: usize = 11;
const KERNEL_TIME: usize = 12;

/// Returns the processor time of a process; absent if it has ended.
pub(super) fn read(pid: u32) -> Option<Duration> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let milliseconds = ticks(&status)? * 1000 / ticks_per_second;
    Some(Duration::from_millis(milliseconds))
}

fn ticks(status: &str) -> Option<u64> {
    let (_, fields) = status.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(field(USER_TIME)? + field(KERNEL_TIME)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_kernel_time_are_added() {
        let status = "71 (a) b (c) S 1 71 71 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(status), Some(175));
        assert_eq!(ticks("71 (cut) S 1"), None);
    }

    #[test]
    fn only_a_process_that_runs_has_a_time() {
        assert!(read(std::process::id()).is_some());
        assert_eq!(read(u32::MAX), None);
    }
}
