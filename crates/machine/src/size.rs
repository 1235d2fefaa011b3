//! Sizes with a unit.

/// The text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid size {0:?}: use bytes, or a number with K, M, G or T (2G, 512MiB)")]
pub struct InvalidSize(String);

/// Parses a size. Every unit is binary: `2G`, `2gb` and `2GiB` are the same. A number without unit
/// is in bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, InvalidSize> {
    let invalid = || InvalidSize(text.to_owned());
    let trimmed = text.trim();
    let digits = trimmed
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits].parse().map_err(|_| invalid())?;
    let shift = match trimmed[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(invalid()),
    };
    number.checked_mul(1 << shift).ok_or_else(invalid)
}

/// Formats a size as a user would enter it: in the largest unit of which it is a whole number.
pub(crate) fn format_bytes(bytes: u64) -> String {
    let units = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    let unit = units
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    match unit {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None if bytes == 1 => "1 byte".to_owned(),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_binary() {
        for text in ["2G", "2g", "2gb", "2GiB", "2048M", " 2 GB ", "2147483648"] {
            assert_eq!(parse_bytes(text), Ok(2 << 30), "{text}");
        }
    }

    #[test]
    fn sizes_are_formatted_in_the_largest_unit() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (512 << 20, "512M"),
            (2 << 40, "2T"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    #[test]
    fn invalid_sizes_are_refused() {
        for text in ["", "G", "-1G", "2.5G", "2X", "99999999999T"] {
            assert_eq!(parse_bytes(text), Err(InvalidSize(text.to_owned())));
        }
    }
}
