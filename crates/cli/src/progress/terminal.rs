//! Standard error as a terminal for indicatif.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use indicatif::TermLike;
use rustix::termios::tcgetwinsize;

/// Width of a terminal that does not report one.
const DEFAULT_COLUMNS: u16 = 80;

/// Columns that are left free, for the terminal's echo of a typed key, such as `^C`.
const FREE_COLUMNS: u16 = 3;

/// Standard error, which indicatif draws on. Unlike its own implementation, this one does not pad
/// lines to the width of the terminal: a padded line would wrap, and remain, when the window gets
/// narrower.
#[derive(Debug, Default)]
pub(super) struct StandardError {
    drawn: Mutex<String>,
}

impl StandardError {
    fn draw(&self, text: &str) -> io::Result<()> {
        *self.drawn.lock().unwrap_or_else(PoisonError::into_inner) += text;
        Ok(())
    }
}

impl TermLike for StandardError {
    fn width(&self) -> u16 {
        let reported = tcgetwinsize(io::stderr()).map_or(0, |size| size.ws_col);
        let columns = if reported == 0 {
            DEFAULT_COLUMNS
        } else {
            reported
        };
        columns.saturating_sub(FREE_COLUMNS).max(1)
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'A')
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'B')
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'C')
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw(&format!("{}\n", text.trim_end_matches(' ')))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(text.trim_end_matches(' '))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stderr = io::stderr().lock();
        stderr.write_all(std::mem::take(&mut *drawn).as_bytes())?;
        stderr.flush()
    }
}

impl StandardError {
    fn move_cursor(&self, by: usize, direction: char) -> io::Result<()> {
        match by {
            0 => Ok(()),
            _ => self.draw(&format!("\x1b[{by}{direction}")),
        }
    }
}
