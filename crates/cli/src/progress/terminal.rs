//! The line of a terminal that moves.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use indicatif::TermLike;
use rustix::termios::tcgetwinsize;

/// Columns of a terminal that does not tell.
const COLUMNS: u16 = 80;

/// Columns that are left free: what is typed, `^C` say, is shown behind the line.
const FREE: u16 = 3;

/// Standard error as indicatif draws on it. A line is never padded to the terminal's width, so
/// that nothing of it is left when the window gets narrower.
#[derive(Debug, Default)]
pub struct StandardError {
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
        let told = tcgetwinsize(io::stderr()).map_or(0, |size| size.ws_col);
        let columns = if told == 0 { COLUMNS } else { told };
        columns.saturating_sub(FREE).max(1)
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.moved(lines, 'A')
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.moved(lines, 'B')
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.moved(columns, 'C')
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.moved(columns, 'D')
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
    fn moved(&self, by: usize, direction: char) -> io::Result<()> {
        match by {
            0 => Ok(()),
            _ => self.draw(&format!("\x1b[{by}{direction}")),
        }
    }
}
