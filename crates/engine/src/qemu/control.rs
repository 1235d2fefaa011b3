//! QEMU's control socket: QMP (docs/interop/qmp-spec in QEMU's sources).

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    time::Duration,
};

use qapi::{
    futures::{QapiService, QmpStreamTokio},
    qmp,
};
use tokio::{io::WriteHalf, net::UnixStream, task::JoinHandle, time::timeout};

type Writer = QmpStreamTokio<WriteHalf<UnixStream>>;

/// How long QEMU may take to answer one command.
const ANSWER: Duration = Duration::from_secs(5);

/// Our end of the socket, before QEMU has greeted.
#[derive(Debug)]
pub struct Ungreeted {
    socket: StdUnixStream,
}

/// A QEMU that takes commands.
pub struct Control {
    service: QapiService<Writer>,
    events: JoinHandle<()>,
}

impl Control {
    /// Our end, and the one that QEMU inherits.
    pub fn pair() -> io::Result<(Ungreeted, OwnedFd)> {
        let (socket, of_qemu) = StdUnixStream::pair()?;
        socket.set_nonblocking(true)?;
        Ok((Ungreeted { socket }, of_qemu.into()))
    }

    /// Asks QEMU to write its disks back and end. It may end before it answers.
    pub async fn quit(self) {
        let quit = self.service.execute(qmp::quit {});
        let _ = timeout(ANSWER, quit).await;
        self.events.abort();
    }
}

impl Ungreeted {
    /// Waits for QEMU's greeting and agrees on the protocol.
    pub async fn connect(self) -> io::Result<Control> {
        let socket = UnixStream::from_std(self.socket)?;
        let stream = QmpStreamTokio::open(socket).await?.negotiate().await?;
        let (service, events) = stream.spawn_tokio();
        Ok(Control { service, events })
    }
}
