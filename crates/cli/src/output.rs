//! What commands print on standard output.

use std::io::{self, ErrorKind, Write};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
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

/// Whether what goes to this stream may be coloured: it is a terminal that can, and neither
/// `NO_COLOR` nor `CLICOLOR` says otherwise, or `CLICOLOR_FORCE` says so.
pub fn is_coloured(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
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

/// Prints a question to standard error, and stays on its line.
pub fn ask(text: &str) {
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{text}");
    let _ = stderr.flush();
}
