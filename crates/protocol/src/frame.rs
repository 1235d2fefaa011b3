//! A message on a stream: its length as four bytes, big-endian, then that many bytes of JSON.
//!
//! Reading takes exactly one frame's bytes, so raw bytes may follow on the same stream.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest message that is accepted, in bytes.
pub const LONGEST: usize = 4 << 20;

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("the stream failed: {0}")]
    Io(#[from] io::Error),
    /// The peer closed the stream where a message was expected.
    #[error("the stream ended where a message was expected")]
    Ended,
    /// The message is longer than [`LONGEST`].
    #[error("a message of {0} bytes is longer than the {LONGEST} that are accepted")]
    TooLong(usize),
    /// The bytes are not the message that was expected.
    #[error("a message does not have the expected form: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Writes one message and flushes it.
pub async fn write<M: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &M,
) -> Result<(), FrameError> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= LONGEST)
        .ok_or(FrameError::TooLong(body.len()))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one message.
pub async fn read<M: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<M, FrameError> {
    let mut length = [0; 4];
    stream
        .read_exact(&mut length)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FrameError::Ended,
            _ => FrameError::Io(error),
        })?;
    let length = u32::from_be_bytes(length) as usize;
    if length > LONGEST {
        return Err(FrameError::TooLong(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Port;

    #[tokio::test]
    async fn a_frame_leaves_the_bytes_behind_it() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Port::Control).await.unwrap();
        bytes.extend_from_slice(b"raw");
        let mut stream = bytes.as_slice();
        assert_eq!(read::<Port>(&mut stream).await.unwrap(), Port::Control);
        assert_eq!(stream, b"raw");
    }

    #[tokio::test]
    async fn an_empty_stream_an_absurd_length_and_wrong_json_are_told_apart() {
        assert!(matches!(
            read::<Port>(&mut &b""[..]).await,
            Err(FrameError::Ended)
        ));
        assert!(matches!(
            read::<Port>(&mut &[0xff; 8][..]).await,
            Err(FrameError::TooLong(0xffff_ffff))
        ));
        assert!(matches!(
            read::<Port>(&mut &b"\0\0\0\x02{}"[..]).await,
            Err(FrameError::Malformed(_))
        ));
    }
}
