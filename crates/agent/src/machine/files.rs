//! Edits account files line by line, keeping the lines of the image's author.

/// Returns `text` with `line` as its entry `name` (the field before the first `:`). The line
/// replaces an existing entry; a new entry is inserted before the first line for which `before`
/// returns true, or appended.
pub(super) fn with_entry(
    text: &str,
    name: &str,
    line: &str,
    before: impl Fn(&str) -> bool,
) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let same = |other: &&str| other.split(':').next() == Some(name);
    match lines.iter().position(same) {
        Some(position) => lines[position] = line,
        None => {
            let position = lines.iter().position(|other| before(other));
            lines.insert(position.unwrap_or(lines.len()), line);
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::with_entry;

    #[test]
    fn entry_is_replaced_inserted_or_appended() {
        let text = "root:0\nubuntu:1000\n";
        assert_eq!(
            with_entry(text, "root", "root:9", |_| false),
            "root:9\nubuntu:1000\n"
        );
        assert_eq!(
            with_entry(text, "ann", "ann:1000", |line| line.ends_with(":1000")),
            "root:0\nann:1000\nubuntu:1000\n"
        );
        assert_eq!(with_entry("", "ann", "ann:1", |_| true), "ann:1\n");
    }
}
