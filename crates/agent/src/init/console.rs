//! The machine's console: a pseudo-terminal, so that init finds a terminal at `/dev/console`
//! and what it prints is kept apart from the kernel's messages.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::OwnedFd,
    time::Duration,
};

use container_protocol::mux::Stream;
use nix::mount::{MsFlags, mount};
use rustix::{
    pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt},
    termios::{OptionalActions, OutputModes, tcgetattr, tcsetattr},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::timeout,
};

use crate::{commands::terminal::Master, machine::MACHINE};

/// How long the log may take to get the console's last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The two ends of the console.
pub struct Console {
    master: OwnedFd,
    terminal: OwnedFd,
}

impl Console {
    /// Makes a pseudo-terminal in the machine and puts it on `/dev/console`.
    pub fn open() -> io::Result<Console> {
        let (master, terminal) = open_terminal()?;
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

    /// A handle on the terminal's end that a program uses.
    pub fn terminal(&self) -> io::Result<OwnedFd> {
        self.terminal.try_clone()
    }

    /// Copies all that is printed to `log`. Without a reader the console goes on taking output,
    /// so that init never waits for one.
    pub fn copy_to(self, mut log: Stream) -> io::Result<ConsoleLog> {
        let mut master = Master::new(self.master)?;
        let copying = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            let mut heard = true;
            while let Ok(count @ 1..) = master.read(&mut buffer).await {
                heard = heard
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

/// The console on its way to the log, for as long as the machine runs.
#[derive(Debug)]
pub struct ConsoleLog {
    /// While one user holds the terminal open, the master does not end.
    held_open: OwnedFd,
    copying: JoinHandle<()>,
}

impl ConsoleLog {
    /// Hands the last words on and lets go of the terminal, which keeps `/dev/pts` in use. Its
    /// other users have ended.
    pub async fn finish(self) {
        drop(self.held_open);
        let mut copying = self.copying;
        if timeout(LAST_WORDS, &mut copying).await.is_err() {
            copying.abort();
            // Cancelled, as it was told.
            let _ = copying.await;
        }
    }
}

/// Opens a new pseudo-terminal of the machine's `/dev/pts`: master and terminal.
pub fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let master: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("{MACHINE}/dev/pts/ptmx"))?;
    unlockpt(&master)?;
    let terminal = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    Ok((master.into(), terminal))
}
