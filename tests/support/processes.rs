use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A process of this host, found by its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line, spaces between the arguments.
    pub command_line: String,
}

impl Process {
    /// All processes whose command line contains `words`.
    pub fn with(words: &str) -> Vec<Process> {
        let entries = fs::read_dir("/proc").unwrap();
        let processes = entries.filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let command_line = String::from_utf8_lossy(&bytes).replace('\0', " ");
            Some(Process { pid, command_line })
        });
        processes
            .filter(|process| process.command_line.contains(words))
            .collect()
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Tells it to end, as `kill` does.
    pub fn tell_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Makes it stand still.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends its standing still.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid).unwrap(), signal).unwrap();
    }

    /// A field of `/proc/PID/status`, by its name.
    pub fn status(&self, field: &str) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    }
}

/// Waits until `what` holds, and fails with `message` when it never does.
pub fn eventually(message: &str, mut what: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !what() {
        assert!(Instant::now() < deadline, "never: {message}");
        sleep(Duration::from_millis(50));
    }
}
