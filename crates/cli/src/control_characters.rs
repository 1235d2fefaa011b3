//! Control characters in text that comes from machines, images and registries: a terminal would
//! obey them.

use std::borrow::Cow;

/// Returns the text with its control characters in Rust's notation (`\u{1b}`), so that a terminal
/// shows them. Line breaks and tabs are kept.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    let is_obeyed = |letter: char| letter.is_control() && letter != '\n' && letter != '\t';
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_obeyed(letter) {
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
    let is_obeyed = |letter: char| letter.is_control() && letter != '\n';
    if !json.contains(is_obeyed) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_obeyed(letter) {
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
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({"process": "\u{9b}2J\u{7f}\u{1b}\t"});
        let json = serde_json::to_string_pretty(&value).unwrap();
        let escaped = escaped_json(&json);
        assert!(!escaped.contains(|letter: char| letter.is_control() && letter != '\n'));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&escaped).unwrap(),
            value
        );
    }
}
