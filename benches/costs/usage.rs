//! What processes use, from proc(5).

use std::{fs, time::Duration};

/// Name of the file that is a guest's memory, in the mappings of its engine.
const GUEST_MEMORY: &str = "memfd:memory-backend-memfd";

/// Returns the processor time of a process and its threads.
pub(crate) fn cpu_time(pid: i32) -> Duration {
    // utime and stime (proc_pid_stat(5)).
    ticks(pid.to_string(), [14, 15])
}

/// Returns the processor time of the children of this process that have ended.
pub(crate) fn cpu_time_of_children() -> Duration {
    // cutime and cstime.
    ticks("self".to_owned(), [16, 17])
}

fn ticks(process: String, fields: [usize; 2]) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The second field, a name in parentheses, may contain spaces.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let values: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.map(|field| values[field - 3].parse::<u64>().unwrap());
    // Linux reports ticks of 10 ms on all platforms (`USER_HZ`).
    Duration::from_millis(ticks.iter().sum::<u64>() * 10)
}

/// Returns the memory of a process in bytes, shared pages in proportion, without a guest's.
pub(crate) fn memory_besides_guest(pid: i32) -> u64 {
    sum(pid, "Pss:", |mapping| !mapping.contains(GUEST_MEMORY))
}

/// Returns the memory in bytes that an engine's guest occupies.
pub(crate) fn memory_of_guest(pid: i32) -> u64 {
    sum(pid, "Rss:", |mapping| mapping.contains(GUEST_MEMORY))
}

/// Returns the sum of a field over the mappings whose first line is meant, in bytes.
fn sum(pid: i32, field: &str, is_meant: impl Fn(&str) -> bool) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut counts, mut sum) = (false, 0);
    for line in maps.lines() {
        // The first line of a mapping starts with its addresses.
        if line
            .split_whitespace()
            .next()
            .is_some_and(|word| !word.ends_with(':'))
        {
            counts = is_meant(line);
        } else if counts && let Some(value) = line.strip_prefix(field) {
            let kibibytes = value.trim().trim_end_matches(" kB");
            sum += kibibytes.parse::<u64>().unwrap() * 1024;
        }
    }
    sum
}
