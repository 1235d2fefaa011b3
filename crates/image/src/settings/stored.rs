//! Machine settings in the store.

use super::{InvalidSettings, MachineSettings, artifact::SettingsArtifact, config::parse_shell};
use crate::{Digest, ImageStore, Reference, StoreError};

/// Error of reading machine settings from the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoredSettingsError {
    #[error(transparent)]
    Invalid(#[from] InvalidSettings),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageStore {
    /// Returns the settings that the image had when its registry was last asked. `None` when they
    /// are incomplete in the store.
    pub(crate) fn stored_settings(
        &self,
        reference: &Reference,
        manifest: &Digest,
    ) -> Result<Option<MachineSettings>, StoredSettingsError> {
        let Some(descriptor) = self.find_settings(reference, manifest)? else {
            return Ok(Some(MachineSettings::default()));
        };
        let Some(bytes) = self.read_small(&descriptor.digest)? else {
            return Ok(None);
        };
        let Some(artifact) = SettingsArtifact::parse(&bytes, descriptor.digest, None)? else {
            return Ok(Some(MachineSettings::default()));
        };
        let mut settings = MachineSettings::default();
        if let Some(config) = &artifact.config {
            let Some(bytes) = self.read_small(&config.digest)? else {
                return Ok(None);
            };
            settings.shell = parse_shell(&bytes)?;
        }
        if let Some(script) = &artifact.script {
            let Some(bytes) = self.read_small(&script.digest)? else {
                return Ok(None);
            };
            settings.setup_script = Some(bytes);
        }
        Ok(Some(settings))
    }
}
