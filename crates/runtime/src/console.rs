//! The kernel's console, watched over while a machine boots.

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

/// For so long neither kernel nor agent is silent, however slow the host.
const SILENCE: Duration = Duration::from_secs(30);

/// How long the boot log may take to get a machine's last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Waits until neither the kernel, on its console, nor the agent has been heard for too long.
pub async fn silence(console: &Path, heard: &Cell<Instant>) {
    let mut length = 0;
    while heard.get().elapsed() < SILENCE {
        sleep(Duration::from_secs(1)).await;
        let printed = fs::read(console).unwrap_or_default();
        if printed.len() != length && !tells_of_a_stall(&printed) {
            heard.set(Instant::now());
        }
        length = printed.len();
    }
}

/// Whether the kernel has found itself standing still. From then on what it prints is no sign of
/// life: it says so again and again (the kernel's kernel/watchdog.c, kernel/rcu/tree_stall.h,
/// kernel/hung_task.c).
fn tells_of_a_stall(console: &[u8]) -> bool {
    let console = String::from_utf8_lossy(console);
    ["soft lockup", "detected stall", "blocked for more than"]
        .iter()
        .any(|words| console.contains(words))
}

/// Waits until what a console's engine printed before its end is in the log.
pub async fn last_words(console: &mut JoinHandle<()>) {
    // It ends with the engine's end of the connection.
    let _ = timeout(LAST_WORDS, console).await;
}

/// The end of the kernel's console, where the reason stands.
pub fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// What a kernel lacks that ends so, as far as that can be told from its console.
pub fn hint(console: &str) -> &'static str {
    let told = |words: &str| console.contains(words);
    if console.is_empty() {
        "\nNothing was printed: the kernel may lack CONFIG_SERIAL_8250_CONSOLE, or be for another kind of machine."
    } else if told("Unable to mount root fs") {
        "\nThe kernel took no initial RAM file system: it lacks CONFIG_BLK_DEV_INITRD, or kernel-args keep it from that."
    } else if told("No working init found") || told("Failed to execute /init") {
        "\nThe kernel could not run the agent: it lacks CONFIG_64BIT or CONFIG_BINFMT_ELF."
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::{hint, tells_of_a_stall};

    #[test]
    fn what_a_kernel_lacks_is_told_from_its_last_words() {
        let words = "[    1.9] Kernel panic - not syncing: VFS: Unable to mount root fs on \"\"";
        assert!(hint(words).contains("CONFIG_BLK_DEV_INITRD"));
        assert!(hint("").contains("CONFIG_SERIAL_8250_CONSOLE"));
        assert_eq!(hint("[    1.9] reboot: Power down"), "");
    }

    #[test]
    fn a_kernel_that_stands_still_says_so() {
        for line in [
            "[   48.1] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [agent:1]",
            "[   30.0] rcu: INFO: rcu_sched self-detected stall on CPU",
            "[   30.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[  242.7] INFO: task agent:1 blocked for more than 120 seconds.",
        ] {
            assert!(tells_of_a_stall(line.as_bytes()), "{line}");
        }
        let healthy = b"[    0.1] rcu: Hierarchical RCU implementation.\n[    2.0] Run /init";
        assert!(!tells_of_a_stall(healthy));
    }
}
