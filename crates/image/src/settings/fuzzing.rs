//! Entry point for the fuzz target of registries' responses.

use super::{artifact::SettingsArtifact, config::parse_shell};
use crate::Digest;

/// Parses bytes as the manifest of an artifact with machine settings, and as the settings.
///
/// # Panics
/// If a parser breaks a promise.
pub fn read_settings(bytes: &[u8]) {
    let digest = Digest::compute(bytes);
    for subject in [None, Some(&digest)] {
        if let Ok(Some(artifact)) = SettingsArtifact::parse(bytes, digest, subject) {
            assert!(artifact.config.is_some() || artifact.script.is_some());
            let chosen = SettingsArtifact::newest(vec![artifact.clone()]);
            assert_eq!(chosen, Some(artifact));
        }
    }
    if let Ok(Some(shell)) = parse_shell(bytes) {
        assert!(shell.starts_with('/'), "{shell:?}");
        // It becomes a field of /etc/passwd.
        assert!(!shell.contains([':', '\n']), "{shell:?}");
    }
}
