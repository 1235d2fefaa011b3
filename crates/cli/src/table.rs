//! Tables with headings.

use anstyle::Style;

use crate::control_characters;

/// Text and style of one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Returns a cell with a style, which is used if the table is coloured.
    pub(crate) fn styled(text: impl ToString, style: Style) -> Cell {
        Cell {
            text: control_characters::shown(&text.to_string()).into_owned(),
            style,
        }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::styled(text, Style::new())
    }
}

/// Formats rows under headings, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [Cell; N]>,
    is_coloured: bool,
) -> String {
    let mut lines = vec![headings.map(|heading| Cell::styled(heading, Style::new().bold()))];
    lines.extend(rows);
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    let format_line = |line: &[Cell; N]| {
        let mut text = String::new();
        let mut padding = 0;
        for (width, cell) in widths.iter().zip(line) {
            if !cell.text.is_empty() {
                text += &" ".repeat(padding);
                padding = 0;
                if is_coloured {
                    text += &format!("{0}{1}{0:#}", cell.style, cell.text);
                } else {
                    text += &cell.text;
                }
            }
            // Padding is only written before another cell, so lines have no trailing spaces.
            padding += width - cell.text.chars().count() + 2;
        }
        text.push('\n');
        text
    };
    lines.iter().map(format_line).collect()
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = || {
            let green = AnsiColor::Green.on_default();
            [
                ["dev".into(), Cell::styled("up", green), "*".into()],
                ["longer-name".into(), "down".into(), "".into()],
            ]
        };
        let headings = ["NAME", "STATE", "D"];
        assert_eq!(
            table(headings, rows(), false),
            "NAME         STATE  D\ndev          up     *\nlonger-name  down\n"
        );
        let coloured = table(headings, rows(), true);
        assert!(
            coloured.contains("\x1b[32mup\x1b[0m     *\n"),
            "{coloured:?}"
        );
        assert_eq!(
            anstream::adapter::strip_str(&coloured).to_string(),
            table(headings, rows(), false)
        );
    }
}
