//! `container machine logs`

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use super::named_or_default;
use crate::{failure::Failure, output};

/// How often a log that is followed is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Show what a machine's init, or its kernel, printed.
#[derive(Debug, Args)]
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
    #[arg(short = 'n', value_name = "N")]
    lines: Option<usize>,
}

impl Logs {
    /// Prints the log.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let id = named_or_default(client, self.id).await?;
        let logs = client.logs(&id).await?;
        let path = if self.boot { logs.boot } else { logs.stdio };
        let text = read_from(&path, 0)?;
        output::print(last_lines(&String::from_utf8_lossy(&text), self.lines))?;
        if self.follow {
            follow(&path, text.len() as u64).await?;
        }
        Ok(())
    }
}

async fn follow(path: &Path, mut position: u64) -> Result<(), Failure> {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        // A shorter file is a new one.
        if fs::metadata(path).is_ok_and(|about| about.len() < position) {
            position = 0;
        }
        let added = read_from(path, position)?;
        position += added.len() as u64;
        output::print(&String::from_utf8_lossy(&added))?;
    }
}

/// A machine that never booted has no log yet.
fn read_from(path: &Path, position: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut log) => {
            log.seek(SeekFrom::Start(position))?;
            log.read_to_end(&mut bytes)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(bytes)
}

fn last_lines(text: &str, count: Option<usize>) -> &str {
    let Some(count) = count else { return text };
    let body = text.strip_suffix('\n').unwrap_or(text);
    if count == 0 {
        return "";
    }
    match body.rmatch_indices('\n').nth(count - 1) {
        Some((position, _)) => &text[position + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_last_lines_are_cut_off_at_lines() {
        assert_eq!(last_lines("a\nb\nc\n", Some(2)), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", Some(1)), "c");
        assert_eq!(last_lines("a\n", Some(9)), "a\n");
        assert_eq!(last_lines("a\n", Some(0)), "");
        assert_eq!(last_lines("a\nb\n", None), "a\nb\n");
    }
}
