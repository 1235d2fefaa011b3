//! Processes that the kernel has killed because memory was used up.

use std::fs;

/// Number of these processes since the host's start, at a time when none of interest was among
/// them.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutOfMemoryKills(Option<u64>);

impl OutOfMemoryKills {
    /// Reads the current number. It includes kills for the limit of a control group.
    pub(super) fn read() -> OutOfMemoryKills {
        let statistics = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        OutOfMemoryKills(parse(&statistics))
    }

    /// Returns whether there were more by the time of `now`.
    fn have_increased(self, now: OutOfMemoryKills) -> bool {
        matches!((self.0, now.0), (Some(before), Some(now)) if now > before)
    }

    /// Returns the reason why a program was killed, if the kernel has killed one for lack of memory
    /// since `self` was read.
    pub(super) fn explain(self, program: &str, now: OutOfMemoryKills) -> Option<String> {
        self.have_increased(now).then(|| {
            format!(
                "{program} was killed: the host, or a limit of this session, was out of memory \
                 (give machines less with: container machine set memory=SIZE)"
            )
        })
    }
}

/// Parses `oom_kill` of `/proc/vmstat` (proc_vmstat(5)).
fn parse(statistics: &str) -> Option<u64> {
    let number = statistics
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    number.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_explained_if_the_kernel_has_run_out_of_memory_meanwhile() {
        let read = |text| OutOfMemoryKills(parse(text));
        let before = read("oom_kill_x 9\noom_kill 3\nnr_free 1\n");
        let explain = |now| before.explain("the engine", read(now));
        assert_eq!(explain("oom_kill 3\n"), None);
        assert!(explain("oom_kill 4\n").unwrap().contains("out of memory"));
        assert_eq!(explain(""), None);
    }
}
