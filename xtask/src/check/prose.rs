//! Comment and Markdown lines are at most 100 columns wide and free of the phrases that
//! docs/style.md rules out.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::source::{Violation, read};

const WIDTH: usize = 100;

/// Phrases from before the style page existed. Each is specific enough to be a mistake wherever
/// it appears; vaguer words are left to the reviewer.
const BANNED: [&str; 10] = [
    "told",
    "anew",
    "whoever",
    "stands still",
    "stood still",
    "what lies",
    "sees to it",
    "on its way",
    "none if",
    "none where",
];

/// Files that must name the phrases.
const EXEMPT: [&str; 2] = ["docs/style.md", "xtask/src/check/prose.rs"];

/// Checks the Rust and Markdown files among these.
pub(super) fn check(files: &[PathBuf]) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for file in files {
        if EXEMPT.iter().any(|exempt| file == Path::new(exempt)) {
            continue;
        }
        let extension = file.extension().and_then(|extension| extension.to_str());
        let is_markdown = extension == Some("md");
        if !is_markdown && extension != Some("rs") {
            continue;
        }
        let text = read(file)?;
        let found =
            wide_lines(&text, is_markdown).map(|line| (line, "longer than 100 columns".to_owned()));
        let found = found.chain(banned_phrases(&text));
        violations.extend(found.map(|(line, rule)| Violation {
            file: file.clone(),
            line,
            rule,
        }));
    }
    Ok(violations)
}

/// Numbers of the prose lines that are too wide. Code, tables and links cannot be wrapped.
fn wide_lines(text: &str, is_markdown: bool) -> impl Iterator<Item = usize> {
    let mut is_fenced = false;
    numbered(text).filter_map(move |(number, line)| {
        let trimmed = line.trim_start();
        if is_markdown && trimmed.starts_with("```") {
            is_fenced = !is_fenced;
        }
        let is_prose = if is_markdown {
            !is_fenced && !trimmed.starts_with('|')
        } else {
            is_comment(trimmed) && !trimmed.contains("//! |") && !trimmed.contains("/// |")
        };
        let is_wide = line.chars().count() > WIDTH && !has_wide_link(line);
        (is_prose && is_wide).then_some(number)
    })
}

/// Whether a line of Rust is a comment, or ends in one.
fn is_comment(trimmed: &str) -> bool {
    trimmed.starts_with("//") || trimmed.starts_with("/*") || trimmed.contains("; // ")
}

/// Whether a line is wide because of a link that does not fit on a line with its indentation.
fn has_wide_link(line: &str) -> bool {
    let link = line.split_whitespace().find(|word| word.contains("://"));
    link.is_some_and(|link| link.chars().count() + 10 > WIDTH)
}

/// Phrases may be split by a line break.
fn banned_phrases(text: &str) -> impl Iterator<Item = (usize, String)> {
    let lines: Vec<String> = text
        .lines()
        .map(|line| words(&without_patterns(line)))
        .collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let next = lines.get(index + 1).map_or("", String::as_str);
        let both = format!(" {line} {next} ");
        for phrase in BANNED {
            let starts_here = |(at, _): (usize, &str)| at < line.len();
            if both.match_indices(&format!(" {phrase} ")).any(starts_here) {
                found.push((index + 1, format!("`{phrase}` (docs/style.md)")));
            }
        }
    }
    found.into_iter()
}

/// Removes the code that reads like a phrase: a match arm's `None if`, and `None` in a comment.
fn without_patterns(line: &str) -> String {
    if line.trim_start().starts_with("//") {
        line.replace("`None`", "`_`")
    } else {
        line.replace("None) if ", "").replace("None if ", "")
    }
}

/// The line's words in lower case, one space apart.
fn words(line: &str) -> String {
    line.to_lowercase()
        .split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_is_found_across_a_line_break() {
        let found: Vec<_> = banned_phrases("// The guest stands\n// still here.\n").collect();
        assert_eq!(found, [(1, "`stands still` (docs/style.md)".to_owned())]);
    }

    #[test]
    fn comments_after_code_and_block_comments_are_measured() {
        let long = "word ".repeat(30);
        let rust = format!("let x = 1; // {long}\n/* {long} */\n");
        assert_eq!(wide_lines(&rust, false).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn the_style_page_names_every_phrase() {
        let page = words(&read(Path::new("docs/style.md")).unwrap());
        for phrase in BANNED {
            assert!(
                format!(" {page} ").contains(&format!(" {phrase} ")),
                "{phrase}"
            );
        }
    }

    #[test]
    fn a_phrase_within_a_word_is_no_violation() {
        assert_eq!(banned_phrases("// Manewaring untold\n").count(), 0);
        assert_eq!(banned_phrases("(_, None) if ready => {}\n").count(), 0);
        assert_eq!(banned_phrases("/// Returns `None` if empty.\n").count(), 0);
    }

    #[test]
    fn code_tables_and_links_may_be_wide() {
        let long = "word ".repeat(30);
        let link = format!("https://example.org/{}", "path/".repeat(20));
        let markdown = format!("```\n{long}\n```\n| {long} |\n{link}\n{long}\nhttp://a {long}\n");
        assert_eq!(wide_lines(&markdown, true).collect::<Vec<_>>(), [6, 7]);
        let rust = format!("let x = \"{long}\";\n    // {long}\n//! | {long} |\n");
        assert_eq!(wide_lines(&rust, false).collect::<Vec<_>>(), [2]);
    }
}
