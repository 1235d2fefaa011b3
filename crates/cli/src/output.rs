//! Standard output and standard error of the commands.
//!
//! A closed standard output is not a failure: `container machine ls | head -1` succeeds.

use std::{
    fmt::Display,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use anstyle::{AnsiColor, Style};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::{control_characters, failure::Failure};

/// Limit of a line in bytes. A machine may send one without end.
const MAX_LINE: u64 = 64 << 10;

/// Whether standard output still has a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Reader {
    /// Standard output can be written to.
    Present,
    /// The pipe has no reader any more, so further output is pointless.
    Gone,
}

/// Returns whether output to this stream is coloured: it is a terminal with colours and neither
/// `NO_COLOR` nor `CLICOLOR=0` is set, or `CLICOLOR_FORCE` is set.
pub(crate) fn is_coloured(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

/// Prints bytes unchanged.
pub(crate) fn bytes(bytes: &[u8]) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::Present),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::cannot("write to standard output")(error)),
    }
}

/// Checks whether standard output still has a reader, without writing.
pub(crate) fn reader() -> Reader {
    let stdout = io::stdout();
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    let polled = poll(&mut watched, Some(&Timespec::default()));
    // poll(2): POLLERR is set on the writing end of a pipe whose reading end is closed.
    match polled {
        Ok(1) if watched[0].revents().contains(PollFlags::ERR) => Reader::Gone,
        _ => Reader::Present,
    }
}

/// Prints text.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes()).map(|_| ())
}

/// Prints one line.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Prints indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::cannot("format as JSON"))?;
    line(control_characters::escaped_json(&text))
}

/// Prints the error that ends a command, or one part of it, to standard error.
pub(crate) fn failure(failure: &Failure) {
    let message = failure.to_string();
    print_to_stderr(&format!(
        "{} {}",
        error_prefix(),
        control_characters::shown(&message)
    ));
}

/// Returns the word that begins every error message, coloured if standard error is.
pub(crate) fn error_prefix() -> String {
    let style = if is_coloured(&io::stderr()) {
        AnsiColor::Red.on_default().bold()
    } else {
        Style::new()
    };
    format!("{style}Error:{style:#}")
}

/// Prints a note to standard error.
pub(crate) fn note(text: &str) {
    print_to_stderr(&control_characters::shown(text));
}

/// Prints messages of a program in a machine to standard error, until they end.
pub(crate) fn guest_messages(messages: impl Read) -> io::Result<()> {
    let write = |text: &str| io::stderr().lock().write_all(text.as_bytes());
    for_each_shown(messages, write)
}

/// Passes each line of `text` on with its control characters shown.
fn for_each_shown(
    text: impl Read,
    mut write: impl FnMut(&str) -> io::Result<()>,
) -> io::Result<()> {
    let mut text = BufReader::new(text);
    loop {
        let mut line = Vec::new();
        if text.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        write(&control_characters::shown(&String::from_utf8_lossy(&line)))?;
    }
}

fn print_to_stderr(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints a question to standard error without a line break.
pub(crate) fn ask(text: &str) {
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{text}");
    let _ = stderr.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_machine_are_shown_line_by_line() {
        let shown = |text: &[u8]| {
            let mut lines = Vec::new();
            for_each_shown(text, |line| {
                lines.push(line.to_owned());
                Ok(())
            })
            .unwrap();
            lines
        };
        assert_eq!(
            shown("skipped: /a\u{1b}]0;x\u{7}\r\nerror: ä".as_bytes()),
            [
                r"skipped: /a\u{1b}]0;x\u{7}\r".to_owned() + "\n",
                "error: ä".into()
            ]
        );
        assert_eq!(shown(b"\x9b2J"), ["\u{fffd}2J"]);
        let without_end = vec![b'x'; 2 * usize::try_from(MAX_LINE).unwrap()];
        assert_eq!(shown(&without_end).len(), 2);
    }
}
