//! The kernel's console: detects a boot that hangs, and what a kernel lacks.

use std::{
    cell::Cell,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// A boot hangs after this long without console output or agent heartbeat. The agent sends one
/// every second, also on a slow host.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Interval at which the console is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Timeout for a console's remaining output to reach the boot log.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until neither the kernel, on its console, nor the agent has sent anything for too long.
pub(crate) async fn await_silence(console: &Path, last_sign: &Cell<Instant>) {
    let mut length = 0;
    while last_sign.get().elapsed() < SILENCE_LIMIT {
        sleep(CHECK_INTERVAL).await;
        let output = fs::read(console).unwrap_or_default();
        if output.len() != length && !reports_stall(&output) {
            last_sign.set(Instant::now());
        }
        length = output.len();
    }
}

/// Returns whether the kernel has detected that it hangs. It repeats such messages, so its output
/// is no sign of life from then on (kernel/watchdog.c, kernel/rcu/tree_stall.h,
/// kernel/hung_task.c).
fn reports_stall(console: &[u8]) -> bool {
    let console = String::from_utf8_lossy(console);
    ["soft lockup", "detected stall", "blocked for more than"]
        .iter()
        .any(|words| console.contains(words))
}

/// Waits until the output of an engine that has ended is in the log.
pub(crate) async fn drain(console: &mut JoinHandle<()>) {
    // The task ends when the engine's end of the pipe is closed.
    let _ = timeout(DRAIN_TIMEOUT, console).await;
}

/// Returns a hint about what the kernel lacks, for an error that quotes this console. Empty if
/// unknown.
pub(crate) fn hint(console: &str) -> &'static str {
    let contains = |words: &str| console.contains(words);
    if console.is_empty() {
        "\nNothing was printed: the kernel may lack CONFIG_SERIAL_8250_CONSOLE, or be for another \
         kind of machine."
    } else if contains("Unable to mount root fs") {
        "\nThe kernel ignored the initramfs: it lacks CONFIG_BLK_DEV_INITRD, or kernel-args disable \
         it."
    } else if contains("No working init found") || contains("Failed to execute /init") {
        "\nThe kernel cannot run the agent: it lacks CONFIG_64BIT or CONFIG_BINFMT_ELF."
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::{hint, reports_stall};

    #[test]
    fn hints_follow_from_the_last_output() {
        let panic = "[    1.9] Kernel panic - not syncing: VFS: Unable to mount root fs on \"\"";
        assert!(hint(panic).contains("CONFIG_BLK_DEV_INITRD"));
        assert!(hint("").contains("CONFIG_SERIAL_8250_CONSOLE"));
        assert_eq!(hint("[    1.9] reboot: Power down"), "");
    }

    #[test]
    fn stall_messages_are_recognized() {
        for line in [
            "[   48.1] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [agent:1]",
            "[   30.0] rcu: INFO: rcu_sched self-detected stall on CPU",
            "[   30.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[  242.7] INFO: task agent:1 blocked for more than 120 seconds.",
        ] {
            assert!(reports_stall(line.as_bytes()), "{line}");
        }
        let healthy = b"[    0.1] rcu: Hierarchical RCU implementation.\n[    2.0] Run /init";
        assert!(!reports_stall(healthy));
    }
}
