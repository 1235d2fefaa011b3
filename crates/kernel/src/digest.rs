//! SHA-256 digests of files.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written as in OCI (`sha256:` and 64 hexadecimal digits) or as `sha256sum`
/// prints it.
///
/// `container_image::Digest` is not used because it accepts only OCI's form, and because this crate
/// does not depend on the image store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sha256Digest([u8; 32]);

/// Error of parsing a [`Sha256Digest`], with the invalid word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {0:?}: a digest is `sha256:` and 64 hexadecimal digits")]
pub struct InvalidSha256(String);

impl Sha256Digest {
    /// Returns the digest of the bytes that have been hashed.
    pub(crate) fn from_hash(hash: Sha256) -> Sha256Digest {
        Sha256Digest(hash.finalize().into())
    }
}

impl FromStr for Sha256Digest {
    type Err = InvalidSha256;

    fn from_str(word: &str) -> Result<Sha256Digest, InvalidSha256> {
        let invalid = || InvalidSha256(word.to_owned());
        let hex = word.strip_prefix("sha256:").unwrap_or(word);
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| invalid())?;
        }
        Ok(Sha256Digest(bytes))
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("sha256:")?;
        let mut bytes = self.0.iter();
        bytes.try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_may_be_as_sha256sum_prints_it() {
        let hex = "0123456789abcdef".repeat(4);
        let digest: Sha256Digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(hex.parse(), Ok(digest));
        assert_eq!(digest.to_string(), format!("sha256:{hex}"));
        for wrong in ["", "sha256:", &hex[1..], &format!("sha512:{hex}")] {
            assert!(wrong.parse::<Sha256Digest>().is_err(), "{wrong}");
        }
    }
}
