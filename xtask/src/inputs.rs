//! Decides whether an output has to be built again.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Everything that an output is built from, as one hash.
#[derive(Default)]
pub(crate) struct Inputs {
    hash: Sha256,
}

impl Inputs {
    /// Adds an input.
    pub(crate) fn with(mut self, input: impl AsRef<[u8]>) -> Inputs {
        let input = input.as_ref();
        // With the length, ("ab", "c") and ("a", "bc") have different hashes.
        self.hash.update(input.len().to_be_bytes());
        self.hash.update(input);
        self
    }

    fn digest(self) -> String {
        let digest = self.hash.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Builds the output, unless the file `stamp` has the hash of these inputs. A failed build
    /// writes no stamp, so it is retried.
    pub(crate) fn build_if_changed(
        self,
        stamp: PathBuf,
        build: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let digest = self.digest();
        if fs::read_to_string(&stamp).is_ok_and(|stamped| stamped == digest) {
            return Ok(());
        }
        build()?;
        fs::write(&stamp, digest).with_context(|| format!("cannot write {}", stamp.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_built_again_when_its_inputs_change() {
        let directory = tempfile::tempdir().unwrap();
        let mut builds = 0;
        for input in ["a", "a", "b", "b"] {
            let stamp = directory.path().join("stamp");
            let build = || {
                builds += 1;
                Ok(())
            };
            Inputs::default()
                .with(input)
                .build_if_changed(stamp, build)
                .unwrap();
        }
        assert_eq!(builds, 2);
    }

    #[test]
    fn failed_build_leaves_no_stamp() {
        let directory = tempfile::tempdir().unwrap();
        let stamp = directory.path().join("stamp");
        let failed = Inputs::default().build_if_changed(stamp.clone(), || anyhow::bail!("no"));
        assert!(failed.is_err());
        assert!(!stamp.exists());
    }
}
