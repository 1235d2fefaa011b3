//! The agent's log: the kernel's, which the host keeps as the machine's boot log.

/// Writes a message to the kernel's log with the severity "error" (syslog(2)).
pub(crate) fn error(message: &str) {
    write('3', &format!("agent: {message}"));
}

/// Writes a message to the kernel's log with the severity "informational".
pub(crate) fn info(message: &str) {
    write('6', message);
}

fn write(severity: char, message: &str) {
    // Without /dev/kmsg there is no other place to report to.
    let _ = std::fs::write("/dev/kmsg", format!("<{severity}>{message}\n"));
}
