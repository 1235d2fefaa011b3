//! Checks the file system on the machine's disk with e2fsck(8).

use std::{fs::File, io, os::unix::fs::FileExt, process::Stdio};

use container_protocol::{CheckReply, CheckRequest, FileSystemState, frame, mux::Stream};
use tokio::{io::AsyncReadExt, process::Command};

use crate::paths::DISK;

/// The program, in the initramfs.
const PROGRAM: &str = "/e2fsck";

/// Bits of its exit code (e2fsck(8), "EXIT CODE").
const CORRECTED: i32 = 1;
const REBOOT: i32 = 2;
const UNCORRECTED: i32 = 4;

/// Maximum length of the output in a reply, in bytes. A large file system with many errors has
/// more.
const MAX_OUTPUT: usize = 64 << 10;

/// Offset of the superblock's `s_state` in the device, and its bit for "errors detected"
/// (Documentation/filesystems/ext4/super.rst).
const STATE_OFFSET: u64 = 1024 + 0x3A;
const ERROR_FS: u16 = 2;

/// What e2fsck does with errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// Reports them.
    Report,
    /// Repairs those that can be repaired without a loss.
    RepairSafely,
    /// Repairs all.
    RepairAll,
}

/// Result of a check.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) state: FileSystemState,
    /// What e2fsck has printed.
    pub(crate) output: String,
}

/// Error of checking the file system.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error("cannot start e2fsck: {0}")]
    Start(io::Error),
    #[error("e2fsck failed: {0}")]
    Failed(String),
}

/// Returns whether the kernel has noted an error of the file system in its superblock.
pub(crate) fn has_noted_errors() -> io::Result<bool> {
    let mut state = [0; 2];
    File::open(DISK)?.read_exact_at(&mut state, STATE_OFFSET)?;
    Ok(u16::from_le_bytes(state) & ERROR_FS != 0)
}

/// Checks the whole file system, which must not be mounted. It is cancelled if the future is
/// dropped.
pub(crate) async fn check(treatment: Treatment) -> Result<Checked, CheckError> {
    if treatment == Treatment::Report {
        // Without the changes in its journal, a file system that was not unmounted seems damaged.
        run(&["-p", "-E", "journal_only"]).await?;
    }
    let option = match treatment {
        Treatment::Report => "-n",
        Treatment::RepairSafely => "-p",
        Treatment::RepairAll => "-y",
    };
    let mut checked = run(&["-f", option]).await?;
    // For e2fsck, this is no error in itself.
    if treatment == Treatment::Report && has_noted_errors().unwrap_or_default() {
        checked.state = FileSystemState::Damaged;
    }
    Ok(checked)
}

async fn run(options: &[&str]) -> Result<Checked, CheckError> {
    let output = Command::new(PROGRAM)
        .args(options)
        .arg(DISK)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = output.await.map_err(CheckError::Start)?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    match output.status.code().and_then(state) {
        Some(state) => Ok(Checked {
            state,
            output: text,
        }),
        None => Err(CheckError::Failed(format!("{}: {text}", output.status))),
    }
}

/// Returns what an exit code says about the file system; absent if it was not checked.
fn state(code: i32) -> Option<FileSystemState> {
    if code & !(CORRECTED | REBOOT | UNCORRECTED) != 0 {
        None
    } else if code & UNCORRECTED != 0 {
        Some(FileSystemState::Damaged)
    } else if code & CORRECTED != 0 {
        Some(FileSystemState::Repaired)
    } else {
        Some(FileSystemState::Clean)
    }
}

/// Serves one stream that the host opened. The check is cancelled if the future is dropped.
pub(crate) async fn serve(mut stream: Stream) {
    let Ok(request) = frame::read::<CheckRequest>(&mut stream).await else {
        return;
    };
    let treatment = if request.repair {
        Treatment::RepairAll
    } else {
        Treatment::Report
    };
    let reply = match check(treatment).await {
        Ok(Checked { state, mut output }) => {
            output.truncate(output.floor_char_boundary(MAX_OUTPUT));
            CheckReply::Checked { state, output }
        }
        Err(error) => CheckReply::Failed(error.to_string()),
    };
    if frame::write(&mut stream, &reply).await.is_ok() {
        // The host sends nothing more, and closes the stream.
        let _ = stream.read_u8().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_what_was_found() {
        for (code, expected) in [
            (0, Some(FileSystemState::Clean)),
            (1, Some(FileSystemState::Repaired)),
            (3, Some(FileSystemState::Repaired)),
            (4, Some(FileSystemState::Damaged)),
            (5, Some(FileSystemState::Damaged)),
            (8, None),
            (12, None),
            (32, None),
        ] {
            assert_eq!(state(code), expected, "{code}");
        }
    }
}
