//! Whether something must be made again.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// What something is made from.
#[derive(Default)]
pub struct Recipe {
    hash: Sha256,
}

impl Recipe {
    /// Adds something that the result depends on.
    pub fn with(mut self, input: impl AsRef<[u8]>) -> Recipe {
        let input = input.as_ref();
        self.hash.update(input.len().to_be_bytes());
        self.hash.update(input);
        self
    }

    fn digest(self) -> String {
        let digest = self.hash.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Makes something, unless `stamp` says that it was made by this very recipe.
    pub fn make(self, stamp: PathBuf, make: impl FnOnce() -> Result<()>) -> Result<()> {
        let digest = self.digest();
        if fs::read_to_string(&stamp).is_ok_and(|stamped| stamped == digest) {
            return Ok(());
        }
        make()?;
        fs::write(&stamp, digest).with_context(|| format!("writing {}", stamp.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_made_when_what_it_is_made_from_changes() {
        let directory = tempfile::tempdir().unwrap();
        let mut made = 0;
        for input in ["a", "a", "b", "b"] {
            let stamp = directory.path().join("stamp");
            let make = || {
                made += 1;
                Ok(())
            };
            Recipe::default().with(input).make(stamp, make).unwrap();
        }
        assert_eq!(made, 2);
    }

    #[test]
    fn a_failure_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let stamp = directory.path().join("stamp");
        let failed = Recipe::default().make(stamp.clone(), || anyhow::bail!("no"));
        assert!(failed.is_err());
        assert!(!stamp.exists());
    }
}
