//! Archives that other programs write, in the format of `docker save`.

use std::{io, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use super::LocalStoreError;
use crate::Environment;

/// Timeout for the next bytes of an archive. Programs send nothing while they pack a large layer.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes of an archive that are read at once.
pub(crate) const CHUNK: usize = 256 << 10;

/// Stream of an archive with one image.
pub(crate) struct LocalArchive {
    pub(crate) bytes: Box<dyn AsyncRead + Send + Unpin>,
    /// Process that writes the archive. `None` when an engine sends it.
    pub(crate) writer: Option<ArchiveWriter>,
}

/// Process that writes an archive to its standard output.
pub(crate) struct ArchiveWriter {
    pub(super) process: Child,
    pub(super) stderr: ChildStderr,
    pub(super) name: &'static str,
}

impl ArchiveWriter {
    /// Waits until the process ends. Fails with the last line of its standard error if it failed.
    pub(crate) async fn finish(mut self) -> Result<(), LocalStoreError> {
        let mut output = String::new();
        let (_, status) =
            tokio::join!(self.stderr.read_to_string(&mut output), self.process.wait());
        match status {
            Ok(status) if status.success() => Ok(()),
            _ => Err(LocalStoreError {
                store: self.name.to_owned(),
                reason: match output.lines().last() {
                    Some(line) => line.trim_start_matches("Error: ").to_owned(),
                    None => "it failed without a message".to_owned(),
                },
            }),
        }
    }
}

/// Passes an archive on. What reads from the other end of `to` sees the archive's end when this
/// returns or is dropped, so that it never waits for a program that hangs.
///
/// # Errors
/// If the archive cannot be read, or nothing arrives for the time `stall`.
pub(crate) async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: DuplexStream,
    stall: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = timeout(stall, from.read(&mut buffer)).await;
        let read = read.map_err(|_| io::Error::other("it has stopped sending"))??;
        let bytes = buffer.get(..read).unwrap_or_default();
        // The reader refuses the rest if it has ended, and has an error of its own.
        if bytes.is_empty() || to.write_all(bytes).await.is_err() {
            return Ok(());
        }
    }
}

/// Prepares a command that runs in the caller's environment.
pub(super) fn command(name: &str, environment: &Environment) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .envs(environment.variables())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn a_program_that_hangs_does_not_make_the_reader_wait() {
        let (mut program, archive) = duplex(16);
        let (to, mut reader) = duplex(16);
        program.write_all(b"half").await.unwrap();
        let error = pass_on(archive, to, Duration::from_millis(1)).await;
        assert_eq!(error.unwrap_err().to_string(), "it has stopped sending");
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"half");

        let (_program, archive) = duplex(16);
        let (to, mut reader) = duplex(16);
        drop(pass_on(archive, to, STALL_TIMEOUT));
        reader.read_to_end(&mut read).await.unwrap();
    }
}
