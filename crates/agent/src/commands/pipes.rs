//! A command's three pipes, joined to its three streams.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use container_protocol::mux::Stream;
use rustix::fs::{Uid, fchown};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe::{self, Receiver, Sender},
    sync::oneshot,
    task::JoinHandle,
};

use super::spawn;

const CHUNK: usize = 64 * 1024;

/// The copying from the command's output to the host. Dropping it leaves the copying alone.
pub struct Pipes {
    outputs: Vec<Output>,
}

struct Output {
    process_ended: Option<oneshot::Sender<()>>,
    copying: JoinHandle<()>,
}

impl Pipes {
    /// Makes the pipes, the command's ends owned by `uid`, and starts copying.
    pub fn new(
        stdin: Stream,
        stdout: Stream,
        stderr: Stream,
        uid: u32,
    ) -> io::Result<(spawn::Streams, Pipes)> {
        let (sender, receiver) = pipe::pipe()?;
        let (stdout_sender, stdout_receiver) = pipe::pipe()?;
        let (stderr_sender, stderr_receiver) = pipe::pipe()?;
        let ends = spawn::Streams {
            stdin: owned_by(uid, receiver.into_blocking_fd()?)?,
            stdout: owned_by(uid, stdout_sender.into_blocking_fd()?)?,
            stderr: owned_by(uid, stderr_sender.into_blocking_fd()?)?,
            controlling_terminal: false,
        };
        tokio::spawn(feed(stdin, sender));
        let outputs = vec![
            Output::start(stdout_receiver, stdout),
            Output::start(stderr_receiver, stderr),
        ];
        Ok((ends, Pipes { outputs }))
    }

    /// Waits until all that the command wrote before its end has been handed on.
    pub async fn finish(&mut self) {
        for output in &mut self.outputs {
            if let Some(process_ended) = output.process_ended.take() {
                // The copying may have ended before the process did.
                let _ = process_ended.send(());
            }
        }
        for output in &mut self.outputs {
            let _ = (&mut output.copying).await;
        }
    }

    /// Stops copying: writers find their pipe closed.
    pub fn abandon(self) {
        for output in self.outputs {
            output.copying.abort();
        }
    }
}

/// The user may open its own streams by name (`/dev/stdout`), which goes by the pipe's owner.
fn owned_by(uid: u32, end: OwnedFd) -> io::Result<OwnedFd> {
    fchown(&end, Some(Uid::from_raw(uid)), None)?;
    Ok(end)
}

/// Copies the host's bytes into the command. When the command reads no more, the dropped
/// stream tells the host.
async fn feed(mut from: Stream, mut to: Sender) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

impl Output {
    fn start(from: Receiver, to: Stream) -> Output {
        let (process_ended, ended) = oneshot::channel();
        Output {
            process_ended: Some(process_ended),
            copying: tokio::spawn(hand_on(from, to, ended)),
        }
    }
}

/// Copies output to the host until the pipe's last writer closes it or the command has ended.
///
/// Children that the command leaves behind may hold the pipe open for ever. So at the
/// command's end what is in the pipe is handed on, and whatever comes later is thrown away: the
/// children go on writing without harm.
async fn hand_on(mut from: Receiver, mut to: Stream, mut process_ended: oneshot::Receiver<()>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = tokio::select! {
            biased;
            _ = &mut process_ended => break,
            count = from.read(&mut buffer) => count,
        };
        match count {
            Ok(count @ 1..) => {
                // With no reader on the host the pipe closes, and the command gets SIGPIPE.
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => {
                let _ = to.shutdown().await;
                return;
            }
        }
    }
    let mut left = rustix::io::ioctl_fionread(from.as_fd()).unwrap_or_default();
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let Ok(count @ 1..) = from.read(&mut buffer[..most]).await else {
            break;
        };
        left -= count as u64;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
    drop(to);
    tokio::spawn(async move { while let Ok(1..) = from.read(&mut buffer).await {} });
}
