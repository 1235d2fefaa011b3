//! Control characters in text that comes from machines, images and registries: a terminal would
//! obey them, or show the text in another order.

use std::borrow::Cow;

/// Whether a terminal obeys the character instead of showing it: control characters, and those that
/// change the direction of the text after them (Unicode Standard Annex 9, sections 2.1 to 2.4).
fn is_obeyed(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the text with its control characters in Rust's notation (`\u{1b}`), so that a terminal
/// shows them. Line breaks and tabs are kept.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    let is_escaped = |letter: char| is_obeyed(letter) && letter != '\n' && letter != '\t';
    if !text.contains(is_escaped) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_escaped(letter) {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown.into()
}

/// Returns JSON text with the control characters escaped that the format does not require to be
/// (RFC 8259, section 7). Terminals take U+009B for the beginning of an escape sequence.
pub(crate) fn escaped_json(json: &str) -> Cow<'_, str> {
    let is_escaped = |letter: char| is_obeyed(letter) && letter != '\n';
    if !json.contains(is_escaped) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_escaped(letter) {
            escaped += &format!("\\u{:04x}", u32::from(letter));
        } else {
            escaped.push(letter);
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(shown("one\n\ttwo ä"), "one\n\ttwo ä");
        let clipboard = "\u{1b}]52;c;eA==\u{7}\r\u{9b}2J";
        assert_eq!(shown(clipboard), r"\u{1b}]52;c;eA==\u{7}\r\u{9b}2J");
        let reversed = "a\u{202e}gpj.exe";
        assert_eq!(shown(reversed), r"a\u{202e}gpj.exe");
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({"process": "\u{9b}2J\u{7f}\u{1b}\t\u{2066}"});
        let json = serde_json::to_string_pretty(&value).unwrap();
        let escaped = escaped_json(&json);
        assert!(!escaped.contains(|letter: char| letter.is_control() && letter != '\n'));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&escaped).unwrap(),
            value
        );
    }
}
