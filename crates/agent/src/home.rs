//! Answers questions of the host's process that serves the shared home.

use std::{fs, io};

use container_protocol::{
    HomeReply, HomeRequest, HostPort,
    frame::{self, FrameError},
    mux::Opener,
};

use crate::kernel_log;

/// Error of answering the host.
#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error("cannot open a stream: {0}")]
    Open(io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Answers questions until the stream ends or this is dropped. A failure is only logged: processes
/// that wait for a lock in the home cannot be killed then.
pub(crate) async fn answer_questions(opener: Opener) {
    match answer_all(opener).await {
        Ok(()) | Err(AnswerError::Frame(FrameError::Ended)) => {}
        Err(error) => kernel_log::error(&format!("cannot answer the file share: {error}")),
    }
}

async fn answer_all(opener: Opener) -> Result<(), AnswerError> {
    let mut host = opener.open().await.map_err(AnswerError::Open)?;
    frame::write(&mut host, &HostPort::Home).await?;
    loop {
        let HomeRequest::FindSignalled { mut threads } = frame::read(&mut host).await?;
        threads.retain(|thread| is_signalled(*thread));
        frame::write(&mut host, &HomeReply::Signalled { threads }).await?;
    }
}

/// Returns whether a thread that waits for an answer of the file share has received a signal. The
/// kernel lets it wait interruptibly (state S) until then, and uninterruptibly (D) afterwards
/// (`request_wait_answer` in Linux's fs/fuse/dev.c), because virtio-fs cannot interrupt a request.
fn is_signalled(thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/stat"));
    status.is_ok_and(|status| state(&status) == Some('D'))
}

/// Returns the state in the contents of `/proc/ID/stat` (proc_pid_stat(5)).
fn state(status: &str) -> Option<char> {
    // The program's name is in parentheses, and may contain anything.
    let (_, after_name) = status.rsplit_once(')')?;
    after_name.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_follows_the_last_parenthesis() {
        assert_eq!(state("7 (a) S (b)) D 1 7 7"), Some('D'));
        assert_eq!(state("7 (flock) S 1 7 7"), Some('S'));
        assert_eq!(state("nonsense"), None);
    }
}
