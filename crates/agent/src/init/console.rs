//! The machine's console: a pseudo-terminal bound to its `/dev/console`.
//!
//! Init needs a terminal there, and one of its own keeps its output apart from the kernel's
//! messages.

use std::{io, os::fd::OwnedFd, time::Duration};

use container_protocol::mux::Stream;
use nix::mount::{MsFlags, mount};
use rustix::{
    pty::ptsname,
    termios::{OptionalActions, OutputModes, tcgetattr, tcsetattr},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    paths::MACHINE,
    pty::{self, PtyMaster},
};

/// Timeout for writing the console's remaining output to the log.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Both ends of the console.
pub(super) struct Console {
    master: OwnedFd,
    terminal: OwnedFd,
}

impl Console {
    /// Opens a pseudo-terminal of the machine and binds it to `/dev/console`.
    pub(super) fn open() -> io::Result<Console> {
        let (master, terminal) = pty::open()?;
        // Without output processing the log has "\n" where it would have "\r\n".
        let mut modes = tcgetattr(&terminal)?;
        modes.output_modes.remove(OutputModes::OPOST);
        tcsetattr(&terminal, OptionalActions::Now, &modes)?;
        let name = ptsname(&master, Vec::new())?
            .into_string()
            .map_err(io::Error::other)?;
        let device = format!("{MACHINE}{name}");
        let console = format!("{MACHINE}/dev/console");
        mount(
            Some(device.as_str()),
            console.as_str(),
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(Console { master, terminal })
    }

    /// Returns another descriptor of the terminal, for the standard streams of a program.
    pub(super) fn terminal(&self) -> io::Result<OwnedFd> {
        self.terminal.try_clone()
    }

    /// Copies all output to `log`. After `log` has failed, output is still read and discarded, so
    /// that init never blocks on a full terminal.
    pub(super) fn copy_to(self, mut log: Stream) -> io::Result<ConsoleLog> {
        let mut master = PtyMaster::new(self.master)?;
        let copying = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            let mut log_is_open = true;
            while let Ok(count @ 1..) = master.read(&mut buffer).await {
                log_is_open = log_is_open
                    && log.write_all(&buffer[..count]).await.is_ok()
                    && log.flush().await.is_ok();
            }
        });
        Ok(ConsoleLog {
            held_open: self.terminal,
            copying,
        })
    }
}

/// Running copy of the console to the log.
#[derive(Debug)]
pub(super) struct ConsoleLog {
    /// Reading the master ends when the last descriptor of the terminal is closed. This one keeps
    /// it open while no process of the machine does.
    held_open: OwnedFd,
    copying: JoinHandle<()>,
}

impl ConsoleLog {
    /// Copies the remaining output and closes the terminal, which otherwise keeps `/dev/pts` in
    /// use. Requires that the machine's processes have ended.
    pub(super) async fn finish(self) {
        drop(self.held_open);
        let mut copying = self.copying;
        if timeout(FLUSH_TIMEOUT, &mut copying).await.is_err() {
            copying.abort();
            // Waits until the task has closed the master. The result is the cancellation.
            let _ = copying.await;
        }
    }
}
