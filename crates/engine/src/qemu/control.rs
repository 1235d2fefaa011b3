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

/// Timeout for the answer to one command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The host's end of the socket, before QEMU's greeting.
#[derive(Debug)]
pub(super) struct Ungreeted {
    socket: StdUnixStream,
}

/// A QEMU that accepts commands.
pub(super) struct Control {
    service: QapiService<Writer>,
    /// Reads the socket, answers included.
    events: JoinHandle<()>,
}

impl Control {
    /// Creates the socket pair: the host's end, and the one that QEMU inherits.
    pub(super) fn pair() -> io::Result<(Ungreeted, OwnedFd)> {
        let (socket, qemu_socket) = StdUnixStream::pair()?;
        socket.set_nonblocking(true)?;
        Ok((Ungreeted { socket }, qemu_socket.into()))
    }

    /// Asks QEMU to write its disks back and quit. QEMU may end before it answers.
    pub(super) async fn quit(self) {
        let quit = self.service.execute(qmp::quit {});
        let _ = timeout(ANSWER_TIMEOUT, quit).await;
        self.events.abort();
    }
}

impl Ungreeted {
    /// Waits for QEMU's greeting and negotiates capabilities.
    pub(super) async fn connect(self) -> io::Result<Control> {
        let socket = UnixStream::from_std(self.socket)?;
        let stream = QmpStreamTokio::open(socket).await?.negotiate().await?;
        let (service, events) = stream.spawn_tokio();
        Ok(Control { service, events })
    }
}
