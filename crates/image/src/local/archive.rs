//! Archives that other programs write, in the format of `docker save`.

use std::process::Stdio;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, ChildStderr, Command},
};

use super::LocalStoreError;
use crate::Environment;

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
