//! Sizes as people write them.

/// A word that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: give bytes, or a number with K, M, G or T (2G, 512MiB)")]
pub struct NotASize(String);

/// Sizes are binary whatever their suffix: `2G`, `2gb` and `2GiB` are the same. A bare number is
/// bytes.
pub fn bytes(word: &str) -> Result<u64, NotASize> {
    let not_a_size = || NotASize(word.to_owned());
    let trimmed = word.trim();
    let digits = trimmed
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits].parse().map_err(|_| not_a_size())?;
    let shift = match trimmed[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(not_a_size()),
    };
    number.checked_mul(1 << shift).ok_or_else(not_a_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_is_binary() {
        for word in ["2G", "2g", "2gb", "2GiB", "2048M", " 2 GB ", "2147483648"] {
            assert_eq!(bytes(word), Ok(2 << 30), "{word}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for word in ["", "G", "-1G", "2.5G", "2X", "99999999999T"] {
            assert_eq!(bytes(word), Err(NotASize(word.to_owned())));
        }
    }
}
