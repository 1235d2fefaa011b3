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
use container_machine::{MachineId, put_aside};

use super::one_or_default;
use crate::{
    failure::Failure,
    output::{self, Reader},
};

/// How often a log that is followed is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Show what a machine's init, or its kernel, printed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine logs dev
  container machine logs -n 20 -f dev
  container machine logs --boot dev")]
pub struct Logs {
    /// The machine; the default one where it is left out.
    id: Option<MachineId>,

    /// The kernel's console in place of init's output.
    #[arg(long)]
    boot: bool,

    /// Go on with what is added.
    #[arg(short, long)]
    follow: bool,

    /// Only the last lines.
    #[arg(short = 'n', value_name = "N", allow_negative_numbers = true)]
    lines: Option<usize>,
}

impl Logs {
    /// Prints the log.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.id).await?;
        let logs = client.logs(&id).await?;
        let mut log = Log::at(if self.boot { logs.boot } else { logs.stdio });
        let mut so_far = fs::read(put_aside(&log.path)).unwrap_or_default();
        so_far.extend(log.read_on()?);
        let mut reader = output::bytes(last_lines(&so_far, self.lines))?;
        while self.follow && reader == Reader::There && log.may_grow() {
            tokio::time::sleep(LOOK_AGAIN).await;
            let added = log.read_on()?;
            reader = match added.is_empty() {
                true => output::reader(),
                false => output::bytes(&added)?,
            };
        }
        Ok(())
    }
}

/// A log file, which may be replaced by a new one while it is read.
struct Log {
    path: PathBuf,
    open: Option<File>,
}

impl Log {
    fn at(path: PathBuf) -> Log {
        Log { path, open: None }
    }

    /// Whether the machine is still there.
    fn may_grow(&self) -> bool {
        self.path.parent().is_some_and(Path::is_dir)
    }

    /// All that was added since the last time. A machine that never booted has no log yet.
    fn read_on(&mut self) -> Result<Vec<u8>, Failure> {
        let failed = |error| Failure::new(format!("reading {}: {error}", self.path.display()));
        let mut added = Vec::new();
        if let Some(log) = &mut self.open {
            log.read_to_end(&mut added).map_err(failed)?;
        }
        let newest = match File::open(&self.path) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(added),
            Err(error) => return Err(failed(error)),
        };
        if self.open.as_mut().is_none_or(|log| !is_same(log, &newest)) {
            self.open
                .insert(newest)
                .read_to_end(&mut added)
                .map_err(failed)?;
        }
        Ok(added)
    }
}

/// Whether both are one file that was not emptied under the first one's position.
fn is_same(log: &mut File, newest: &File) -> bool {
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
    fn the_last_lines_are_cut_off_at_lines() {
        assert_eq!(last_lines(b"a\nb\nc\n", Some(2)), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", Some(1)), b"c");
        assert_eq!(last_lines(b"a\n", Some(9)), b"a\n");
        assert_eq!(last_lines(b"a\n", Some(0)), b"");
        assert_eq!(last_lines(b"a\nb\n", None), b"a\nb\n");
    }

    #[test]
    fn a_log_is_read_on_when_it_grows_and_anew_when_it_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("boot.log");
        let mut log = Log::at(path.clone());
        assert_eq!(log.read_on().unwrap(), b"");
        fs::write(&path, "one\n").unwrap();
        assert_eq!(log.read_on().unwrap(), b"one\n");
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(log.read_on().unwrap(), b"two\n");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another boot\n").unwrap();
        assert_eq!(log.read_on().unwrap(), b"another boot\n");
        fs::write(&path, "").unwrap();
        assert_eq!(log.read_on().unwrap(), b"");
    }
}
