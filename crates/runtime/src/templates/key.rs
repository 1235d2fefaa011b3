//! Keys of templates.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::file_identity::FileIdentity;

/// Everything that a saved virtual machine depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TemplateKey {
    /// [`Prepared::template_fingerprint`](container_engine::Prepared::template_fingerprint).
    engine: String,
    /// Kernel image and archives of the initramfs.
    files: Vec<FileIdentity>,
}

impl TemplateKey {
    /// Returns the key of a virtual machine with these files for kernel and initramfs.
    pub(crate) fn new(engine: String, files: &[PathBuf]) -> io::Result<TemplateKey> {
        let files = files.iter().map(|file| FileIdentity::read(file));
        Ok(TemplateKey {
            engine,
            files: files.collect::<io::Result<_>>()?,
        })
    }

    /// Returns the name of the template's directory.
    pub(crate) fn name(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let digest = Sha256::digest(json);
        digest[..16].iter().map(|it| format!("{it:02x}")).collect()
    }

    /// Returns whether the files are still those that the key names. Otherwise no machine can have
    /// this key.
    pub(crate) fn is_current(&self) -> bool {
        self.files.iter().all(FileIdentity::is_current)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;

    /// Returns a key that stays current.
    pub(crate) fn key(engine: &str) -> TemplateKey {
        TemplateKey::new(engine.to_owned(), &[]).unwrap()
    }

    #[test]
    fn a_key_changes_with_the_engine_and_with_each_file() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("vmlinux");
        fs::write(&kernel, "kernel").unwrap();
        let read = |engine: &str| {
            TemplateKey::new(engine.to_owned(), std::slice::from_ref(&kernel)).unwrap()
        };
        let first = read("qemu");
        assert_eq!(first.name(), read("qemu").name());
        assert_ne!(first.name(), read("other").name());
        assert!(first.is_current());
        fs::write(&kernel, "another kernel").unwrap();
        assert_ne!(first.name(), read("qemu").name());
        assert!(!first.is_current());
        fs::remove_file(&kernel).unwrap();
        assert!(!first.is_current());
    }
}
