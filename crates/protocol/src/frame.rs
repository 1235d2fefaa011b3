//! Messages on a stream: the length as four bytes, big-endian, then that many bytes of JSON.
//!
//! A read consumes exactly one frame, so raw bytes may follow on the same stream.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum length of a message in bytes. It bounds what a peer can make this side allocate; the
/// largest message is a set-up script of 1 MiB.
const MAX_MESSAGE: usize = 4 << 20;

/// Maximum length in bytes of a message that a peer may send on any number of streams.
const MAX_SHORT_MESSAGE: usize = 64 << 10;

/// Error of reading or writing a message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream cannot be read or written.
    #[error("the stream failed: {0}")]
    Io(io::Error),
    /// The peer closed the stream instead of sending a message.
    #[error("the stream ended where a message was expected")]
    Ended,
    /// The message is longer than its limit.
    #[error("message of {length} bytes is too long (the limit is {limit})")]
    TooLong {
        /// Length of the message in bytes.
        length: usize,
        /// Maximum length in bytes.
        limit: usize,
    },
    /// The bytes are not a message of the expected type.
    #[error("invalid message: {0}")]
    Malformed(serde_json::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> FrameError {
        FrameError::Io(error)
    }
}

/// Writes one message and flushes the stream.
///
/// # Errors
/// If the message is too long, or the stream fails.
pub async fn write<M: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &M,
) -> Result<(), FrameError> {
    // One write, so that a frame is one packet of the multiplexer.
    stream.write_all(&encode(message)?).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one message. Not cancel safe: a part of it may have been consumed.
///
/// # Errors
/// [`FrameError`]; [`FrameError::Ended`] if the stream is closed before the message.
pub async fn read<M: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<M, FrameError> {
    read_up_to(stream, MAX_MESSAGE).await
}

/// Reads one message as [`read`] does, with a limit of 64 KiB. For messages that a peer may send on
/// any number of streams at once.
///
/// # Errors
/// As [`read`].
pub async fn read_short<M: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<M, FrameError> {
    read_up_to(stream, MAX_SHORT_MESSAGE).await
}

async fn read_up_to<M: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<M, FrameError> {
    let mut length = [0; 4];
    let read = stream.read_exact(&mut length).await;
    read.map_err(end_or_failure)?;
    let mut body = vec![0; checked_length(length, limit)?];
    stream.read_exact(&mut body).await?;
    serde_json::from_slice(&body).map_err(FrameError::Malformed)
}

/// Does what [`write()`] does, for programs without an event loop.
///
/// # Errors
/// If the message is too long, or the stream fails.
pub fn write_blocking<M: Serialize>(
    stream: &mut impl Write,
    message: &M,
) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    stream.flush()?;
    Ok(())
}

/// Does what [`read`] does, for programs without an event loop.
///
/// # Errors
/// [`FrameError`]; [`FrameError::Ended`] if the stream is closed before the message.
pub fn read_blocking<M: DeserializeOwned>(stream: &mut impl Read) -> Result<M, FrameError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(end_or_failure)?;
    let mut body = vec![0; checked_length(length, MAX_MESSAGE)?];
    stream.read_exact(&mut body)?;
    serde_json::from_slice(&body).map_err(FrameError::Malformed)
}

fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let body = serde_json::to_vec(message).map_err(FrameError::Malformed)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_MESSAGE)
        .ok_or(FrameError::TooLong {
            length: body.len(),
            limit: MAX_MESSAGE,
        })?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

fn checked_length(length: [u8; 4], limit: usize) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok(length)
}

fn end_or_failure(error: io::Error) -> FrameError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Ended,
        _ => FrameError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Port;

    #[tokio::test]
    async fn a_read_leaves_the_bytes_after_the_frame() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Port::Control).await.unwrap();
        bytes.extend_from_slice(b"raw");
        let mut stream = bytes.as_slice();
        assert_eq!(read::<Port>(&mut stream).await.unwrap(), Port::Control);
        assert_eq!(stream, b"raw");
    }

    #[tokio::test]
    async fn blocking_and_asynchronous_frames_are_the_same() {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        write(&mut one, &Port::Control).await.unwrap();
        write_blocking(&mut other, &Port::Control).unwrap();
        assert_eq!(one, other);
        let mut stream = one.as_slice();
        assert_eq!(read_blocking::<Port>(&mut stream).unwrap(), Port::Control);
        assert!(matches!(
            read_blocking::<Port>(&mut stream),
            Err(FrameError::Ended)
        ));
    }

    #[tokio::test]
    async fn an_empty_stream_an_excessive_length_and_invalid_json_are_distinct_errors() {
        assert!(matches!(
            read::<Port>(&mut &b""[..]).await,
            Err(FrameError::Ended)
        ));
        assert!(matches!(
            read::<Port>(&mut &[0xff; 8][..]).await,
            Err(FrameError::TooLong {
                length: 0xffff_ffff,
                ..
            })
        ));
        let message = "x".repeat(MAX_SHORT_MESSAGE);
        let mut bytes = Vec::new();
        write(&mut bytes, &message).await.unwrap();
        assert_eq!(read::<String>(&mut &bytes[..]).await.unwrap(), message);
        assert!(matches!(
            read_short::<String>(&mut &bytes[..]).await,
            Err(FrameError::TooLong { .. })
        ));
        assert!(matches!(
            read::<Port>(&mut &b"\0\0\0\x02{}"[..]).await,
            Err(FrameError::Malformed(_))
        ));
    }
}
