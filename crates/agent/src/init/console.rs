//! The machine's console: a pseudo-terminal bound to its `/dev/console`.
//!
//! Init needs a terminal there, and one of its own keeps its output apart from the kernel's
//! messages.

use std::{io, os::fd::OwnedFd, time::Duration};

use container_protocol::{HostPort, frame, mux::Stream};
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
    link::Host,
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

    /// Copies all output to the host's log. After that has failed, output is still read and
    /// discarded, so that init never blocks on a full terminal.
    pub(super) fn copy_to(self, mut log: StdioLog) -> io::Result<ConsoleLog> {
        let mut master = PtyMaster::new(self.master)?;
        let copying = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            let mut log_is_open = true;
            while let Ok(count @ 1..) = master.read(&mut buffer).await {
                log_is_open = log_is_open && log.write(&buffer[..count]).await.is_ok();
            }
        });
        Ok(ConsoleLog {
            held_open: self.terminal,
            copying,
        })
    }
}

/// The host's log of init's output.
pub(crate) struct StdioLog {
    host: Host,
    stream: Stream,
}

impl StdioLog {
    /// Opens the log.
    pub(crate) async fn open(host: Host) -> io::Result<StdioLog> {
        let stream = StdioLog::open_stream(&host).await?;
        Ok(StdioLog { host, stream })
    }

    async fn open_stream(host: &Host) -> io::Result<Stream> {
        let mut stream = host.open().await?;
        let opened = frame::write(&mut stream, &HostPort::StdioLog).await;
        opened.map_err(io::Error::other)?;
        Ok(stream)
    }

    /// Appends output. The stream ends when the machine is suspended, and is opened again.
    async fn write(&mut self, output: &[u8]) -> io::Result<()> {
        while self.try_to_write(output).await.is_err() {
            self.stream = StdioLog::open_stream(&self.host).await?;
        }
        Ok(())
    }

    async fn try_to_write(&mut self, output: &[u8]) -> io::Result<()> {
        self.stream.write_all(output).await?;
        self.stream.flush().await
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
