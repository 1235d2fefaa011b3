//! Connects the three pipes of a command without a terminal to its three streams.

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

/// Size of a copy buffer in bytes: the default capacity of a pipe (pipe(7)).
const CHUNK: usize = 64 * 1024;

/// Running copies of the command's output to the host. Dropping this does not stop them.
pub(super) struct Pipes {
    outputs: Vec<Output>,
}

struct Output {
    process_ended: Option<oneshot::Sender<()>>,
    copying: JoinHandle<()>,
}

impl Pipes {
    /// Creates the pipes and starts copying. The command's ends belong to `uid`. When the host has
    /// closed `stdin`, `at_end` is called before the command's input ends.
    pub(super) fn new(
        stdin: Stream,
        stdout: Stream,
        stderr: Stream,
        uid: u32,
        at_end: impl FnOnce() + Send + 'static,
    ) -> io::Result<(spawn::StandardStreams, Pipes)> {
        let (sender, receiver) = pipe::pipe()?;
        let (stdout_sender, stdout_receiver) = pipe::pipe()?;
        let (stderr_sender, stderr_receiver) = pipe::pipe()?;
        let ends = spawn::StandardStreams {
            stdin: owned_by(uid, receiver.into_blocking_fd()?)?,
            stdout: owned_by(uid, stdout_sender.into_blocking_fd()?)?,
            stderr: owned_by(uid, stderr_sender.into_blocking_fd()?)?,
            controlling_terminal: false,
        };
        tokio::spawn(async move {
            let mut sender = sender;
            feed(stdin, &mut sender).await;
            at_end();
        });
        let outputs = vec![
            Output::start(stdout_receiver, stdout),
            Output::start(stderr_receiver, stderr),
        ];
        Ok((ends, Pipes { outputs }))
    }

    /// Waits until everything that the command wrote before its end has been copied. Call it after
    /// the command has ended.
    pub(super) async fn finish(&mut self) {
        for output in &mut self.outputs {
            if let Some(process_ended) = output.process_ended.take() {
                // Fails if the command closed its output before it ended.
                let _ = process_ended.send(());
            }
        }
        for output in &mut self.outputs {
            let _ = (&mut output.copying).await;
        }
    }

    /// Stops copying. Processes that still write get SIGPIPE.
    pub(super) fn abandon(self) {
        for output in self.outputs {
            output.copying.abort();
        }
    }
}

/// Makes `uid` the owner of a pipe. Opening `/dev/stdout` needs permission for the pipe itself.
fn owned_by(uid: u32, end: OwnedFd) -> io::Result<OwnedFd> {
    fchown(&end, Some(Uid::from_raw(uid)), None)?;
    Ok(end)
}

/// Copies input from the host to the command. If the command closes its input, the stream is
/// dropped, which the host sees as a reset.
async fn feed(mut from: Stream, to: &mut Sender) {
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
            copying: tokio::spawn(copy_output(from, to, ended)),
        }
    }
}

/// Copies output to the host until the pipe's last writer closes it or the command has ended.
///
/// Background children of the command may hold the pipe open forever. So when the command ends, the
/// pipe's current content is still copied; later output is read and discarded, so that the children
/// neither block nor get SIGPIPE.
async fn copy_output(mut from: Receiver, mut to: Stream, mut process_ended: oneshot::Receiver<()>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = tokio::select! {
            biased;
            _ = &mut process_ended => break,
            count = from.read(&mut buffer) => count,
        };
        match count {
            Ok(count @ 1..) => {
                // The host has closed the stream: closing the pipe gives the command SIGPIPE.
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
