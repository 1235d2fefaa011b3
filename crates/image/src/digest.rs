//! Digests: the SHA-256 hashes that name blobs.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

/// SHA-256 digest (image-spec, descriptor.md, "Digests"). Its text form is `sha256:` and 64
/// lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes these bytes.
    pub fn compute(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Returns the 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns the first 16 bytes, which fit into a UUID.
    pub(crate) fn first_half(&self) -> [u8; 16] {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0[..16]);
        half
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The text is not a SHA-256 digest. Other algorithms are not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {0:?} (expected: sha256: and 64 lowercase hexadecimal digits)")]
pub struct InvalidDigest(String);

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(word: &str) -> Result<Digest, InvalidDigest> {
        // The text may come from an untrusted manifest; an error message has to stay short.
        let invalid = || InvalidDigest(word.chars().take(200).collect());
        let hex = word.strip_prefix("sha256:").ok_or_else(invalid)?;
        let is_lower_hex = |letter: u8| matches!(letter, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() != 64 || !hex.bytes().all(is_lower_hex) {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| invalid())?;
        }
        Ok(Digest(bytes))
    }
}

/// Computes a digest piece by piece.
#[derive(Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_parsed_as_it_is_displayed() {
        let written = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::compute(b"abc").to_string(), written);
        assert_eq!(written.parse(), Ok(Digest::compute(b"abc")));
    }

    #[test]
    fn text_that_is_no_sha256_digest_is_refused() {
        let long = format!("sha256:{}", "0".repeat(65));
        let upper = format!("sha256:{}", "A".repeat(64));
        let other = format!("sha512:{}", "0".repeat(64));
        let wide = format!("sha256:{}", "é".repeat(32));
        for word in ["", "sha256:", "sha256:12", &long, &upper, &other, &wide] {
            assert!(word.parse::<Digest>().is_err(), "{word}");
        }
    }
}
