//! Suspending a machine: how both ends of the channel find each other again.
//!
//! | host | agent |
//! |---|---|
//! | [`ControlRequest::Suspend`](crate::ControlRequest::Suspend) | |
//! | | `SuspendReady`, or `SuspendFailed`, after which nothing else happens |
//! | closes the control stream, reads the channel without streams | |
//! | | closes the channel, opens it again, and sends the mark of a waiting agent until the token |
//! | *the virtual machine is saved and restored, or continues* | |
//! | token, [`ChannelRequest::Resume`](crate::ChannelRequest::Resume) | |
//! | | token |
//! | [streams](crate::mux), of which the first is [`Port::Control`](crate::Port::Control) | streams |
//! | | `ClockRequested` |
//! | `SetClock` | |
//! | | `Started` |
//!
//! For a snapshot, the machine continues with its streams, and only its copy has to find the host:
//!
//! | host | agent |
//! |---|---|
//! | [`ControlRequest::PrepareSnapshot`](crate::ControlRequest::PrepareSnapshot) | |
//! | | `SnapshotReady`, or `SnapshotFailed` |
//! | *writes nothing after the end of a frame, and waits until all is read* | |
//! | *the virtual machine is saved, and continues* | |
//!
//! The host of the restored copy first writes [`BREAK`], which is no frame, so that the agent ends
//! its streams. Then it waits for the mark of a waiting agent, and everything is as above.
//!
//! The rest of the old streams may still be in the channel. Each end ignores everything before the
//! token, which the host has chosen at random.

use std::{fmt, io};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const LENGTH: usize = 16;

/// Bytes that end the [streams](crate::mux) of an agent that expects a frame: no version of yamux
/// begins a header with them.
pub const BREAK: [u8; 12] = [0xff; 12];

/// Bytes that mark the beginning of what belongs to a resumed machine.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeToken([u8; LENGTH]);

impl ResumeToken {
    /// Creates a token from random bytes.
    pub fn new(random: [u8; LENGTH]) -> ResumeToken {
        ResumeToken(random)
    }

    /// Returns the mark of an agent that waits for the token.
    #[must_use]
    pub fn waiting_mark(&self) -> ResumeToken {
        ResumeToken(self.0.map(|byte| !byte))
    }

    /// Writes the token.
    ///
    /// # Errors
    /// If the stream fails.
    pub async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        to.write_all(&self.0).await?;
        to.flush().await
    }

    /// Reads until the token has been read.
    ///
    /// # Errors
    /// If the stream fails, or ends before.
    pub async fn await_in(&self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        let mut last = [0; LENGTH];
        from.read_exact(&mut last).await?;
        while last != self.0 {
            last.rotate_left(1);
            last[LENGTH - 1] = from.read_u8().await?;
        }
        Ok(())
    }
}

impl fmt::Debug for ResumeToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ResumeToken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_before_the_token_is_ignored() {
        let token = ResumeToken::new(*b"abcdefghabcdefgX");
        let mut stream = b"rest of a frame abcdefgh".to_vec();
        token.write(&mut stream).await.unwrap();
        stream.extend(b"new");
        let mut stream = stream.as_slice();
        token.await_in(&mut stream).await.unwrap();
        assert_eq!(stream, b"new");
        assert!(token.await_in(&mut stream).await.is_err());
        assert_ne!(token, token.waiting_mark());
    }
}
