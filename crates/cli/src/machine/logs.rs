//! `container machine logs`

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use container_client::Client;
use container_machine::{MachineId, previous_log, rotated_log};

use super::target::one_or_default;
use crate::{
    failure::Failure,
    output::{self, Reader},
};

/// Interval at which a followed log is read.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Show the output of a machine's init, or its kernel's console.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine logs dev
  container machine logs -n 20 -f dev
  container machine logs --boot dev
  container machine logs --boot --previous dev")]
pub(crate) struct Logs {
    /// Machine; default: the default machine.
    id: Option<MachineId>,

    /// Show the kernel's console.
    #[arg(long)]
    boot: bool,

    /// Show the console of the boot before the last one, for example of one that crashed.
    #[arg(long, requires = "boot", conflicts_with = "follow")]
    previous: bool,

    /// Keep printing new output.
    #[arg(short, long)]
    follow: bool,

    /// Number of lines to show, from the end.
    #[arg(short = 'n', value_name = "N", allow_negative_numbers = true)]
    lines: Option<usize>,
}

impl Logs {
    /// Prints the log.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.id).await?;
        let logs = client.logs(&id).await?;
        let mut log = LogReader::new(match (self.boot, self.previous) {
            (true, true) => previous_log(&logs.boot),
            (true, false) => logs.boot,
            (false, _) => logs.stdio,
        });
        let mut text = fs::read(rotated_log(&log.path)).unwrap_or_default();
        text.extend(log.read_new()?);
        let mut reader = output::bytes(last_lines(&text, self.lines))?;
        while self.follow && reader == Reader::Present && log.may_grow() {
            tokio::time::sleep(FOLLOW_INTERVAL).await;
            let added = log.read_new()?;
            reader = if added.is_empty() {
                // Without output, a closed reader is noticed by a check only.
                output::reader()
            } else {
                output::bytes(&added)?
            };
        }
        Ok(())
    }
}

/// Reader of a log file, which may be replaced by a new one while it is read.
struct LogReader {
    path: PathBuf,
    open: Option<File>,
}

impl LogReader {
    fn new(path: PathBuf) -> LogReader {
        LogReader { path, open: None }
    }

    /// Returns whether the machine still exists.
    fn may_grow(&self) -> bool {
        self.path.parent().is_some_and(Path::is_dir)
    }

    /// Returns everything added since the last call. A machine that was never booted has no log.
    fn read_new(&mut self) -> Result<Vec<u8>, Failure> {
        let cannot_read = || Failure::cannot(format!("read {}", self.path.display()));
        let mut added = Vec::new();
        if let Some(log) = &mut self.open {
            log.read_to_end(&mut added).map_err(cannot_read())?;
        }
        let newest = match File::open(&self.path) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(added),
            Err(error) => return Err(cannot_read()(error)),
        };
        if self
            .open
            .as_mut()
            .is_none_or(|log| !is_same_file(log, &newest))
        {
            self.open
                .insert(newest)
                .read_to_end(&mut added)
                .map_err(cannot_read())?;
        }
        Ok(added)
    }
}

/// Returns whether both are the same file, and it was not truncated below the position in the
/// first.
fn is_same_file(log: &mut File, newest: &File) -> bool {
    let (Ok(about), Ok(newest), Ok(position)) =
        (log.metadata(), newest.metadata(), log.stream_position())
    else {
        return false;
    };
    about.ino() == newest.ino() && about.dev() == newest.dev() && newest.len() >= position
}

fn last_lines(text: &[u8], count: Option<usize>) -> &[u8] {
    let Some(count) = count else { return text };
    if count == 0 {
        return b"";
    }
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let line_ends = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    match line_ends.map(|(position, _)| position).nth(count - 1) {
        Some(position) => &text[position + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_begin_after_a_line_break() {
        assert_eq!(last_lines(b"a\nb\nc\n", Some(2)), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", Some(1)), b"c");
        assert_eq!(last_lines(b"a\n", Some(9)), b"a\n");
        assert_eq!(last_lines(b"a\n", Some(0)), b"");
        assert_eq!(last_lines(b"a\nb\n", None), b"a\nb\n");
    }

    #[test]
    fn a_replaced_log_is_read_from_its_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("boot.log");
        let mut log = LogReader::new(path.clone());
        assert_eq!(log.read_new().unwrap(), b"");
        fs::write(&path, "one\n").unwrap();
        assert_eq!(log.read_new().unwrap(), b"one\n");
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(log.read_new().unwrap(), b"two\n");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another boot\n").unwrap();
        assert_eq!(log.read_new().unwrap(), b"another boot\n");
        fs::write(&path, "").unwrap();
        assert_eq!(log.read_new().unwrap(), b"");
    }
}
