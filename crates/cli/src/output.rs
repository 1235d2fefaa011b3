//! What commands print on standard output.

use std::io::{self, ErrorKind, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::failure::Failure;

/// Whether anybody still reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Reader {
    /// Somebody may.
    There,
    /// Nobody does: more output is pointless, which is no failure.
    Gone,
}

/// Prints bytes as they are.
pub fn bytes(bytes: &[u8]) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::new(format!("writing to standard output: {error}"))),
    }
}

/// Looks whether anybody still reads standard output, without printing.
pub fn reader() -> Reader {
    let stdout = io::stdout();
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    let looked = poll(&mut watched, Some(&Timespec::default()));
    // A pipe without a reader is in error (poll(2)).
    match looked {
        Ok(1) if watched[0].revents().contains(PollFlags::ERR) => Reader::Gone,
        _ => Reader::There,
    }
}

/// Prints text.
pub fn print(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes()).map(|_| ())
}

/// Prints one line.
pub fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Prints indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string_pretty(value)?)
}

/// Prints a note to standard error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints rows under their headings, each column as wide as its widest entry.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Result<(), Failure> {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let as_line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut text = as_line(headings.to_vec()) + "\n";
    for row in rows {
        text += &as_line(row.iter().map(String::as_str).collect());
        text.push('\n');
    }
    print(&text)
}
