//! A person at a terminal.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// Timeout for expected output and for the end of the command.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A person at a terminal in which a command runs.
pub struct Terminal {
    master: File,
    command: Child,
    /// Output since the last expected words.
    shown: String,
    screen: vt100::Parser,
}

impl Terminal {
    /// Starts a command in a new terminal of this size.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let open = || -> OwnedFd {
            ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap()
        };
        let mut session = Command::new("setsid");
        session
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("TERM", "xterm")
            .stdin(Stdio::from(open()))
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()));
        if let Some(directory) = command.get_current_dir() {
            session.current_dir(directory);
        }
        let mut terminal = Terminal {
            command: session.spawn().unwrap(),
            master: File::from(master),
            shown: String::new(),
            screen: vt100::Parser::new(rows, columns, 0),
        };
        terminal.resize(rows, columns);
        terminal
    }

    /// Resizes the terminal.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).unwrap();
        self.screen.screen_mut().set_size(rows, columns);
    }

    /// Types these keys.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the output contains these words, and discards the output up to their end.
    pub fn expect(&mut self, words: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(position) = self.shown.find(words) {
                self.shown.drain(..position + words.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && self.read(left),
                "{words:?} not found in the output {:?}",
                self.shown
            );
        }
    }

    /// Reads output that arrives within this time. Returns whether there was any.
    fn read(&mut self, within: Duration) -> bool {
        let mut watched = [PollFd::new(&self.master, PollFlags::IN)];
        let within = Timespec::try_from(within).unwrap();
        if poll(&mut watched, Some(&within)).unwrap() == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        let count = (&self.master).read(&mut buffer).unwrap_or_default();
        self.screen.process(&buffer[..count]);
        self.shown += &String::from_utf8_lossy(&buffer[..count]);
        count > 0
    }

    /// Returns the current screen.
    pub fn screen(&self) -> &vt100::Screen {
        self.screen.screen()
    }

    /// Waits for the command's end and returns its exit code.
    pub fn end(self) -> Option<i32> {
        self.end_with_screen().0
    }

    /// Waits for the command's end and returns its exit code and the final screen.
    pub fn end_with_screen(mut self) -> (Option<i32>, vt100::Screen) {
        let deadline = Instant::now() + TIMEOUT;
        // Without a reader the command would block on a full terminal.
        while self.read(deadline.saturating_duration_since(Instant::now())) {}
        if Instant::now() >= deadline {
            self.command.kill().unwrap();
            panic!(
                "timed out waiting for the command to end; its output: {:?}",
                self.shown
            );
        }
        let code = self.command.wait().unwrap().code();
        (code, self.screen.screen().clone())
    }
}
