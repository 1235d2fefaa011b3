//! Signals of threads that wait for the file share.

use std::fs;

/// Returns whether a thread that waits for an answer of the file share has received a signal. The
/// kernel lets it wait interruptibly (state S) until then, and uninterruptibly (D) afterwards
/// (`request_wait_answer` in Linux's fs/fuse/dev.c), because virtio-fs cannot interrupt a request.
pub(super) fn is_signalled(thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/stat"));
    status.is_ok_and(|status| state(&status) == Some('D'))
}

/// Returns the state in the contents of `/proc/ID/stat` (proc_pid_stat(5)).
fn state(status: &str) -> Option<char> {
    // The program's name is in parentheses, and may contain anything.
    let (_, after_name) = status.rsplit_once(')')?;
    after_name.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_follows_the_last_parenthesis() {
        assert_eq!(state("7 (a) S (b)) D 1 7 7"), Some('D'));
        assert_eq!(state("7 (flock) S 1 7 7"), Some('S'));
        assert_eq!(state("nonsense"), None);
    }
}
