//! Download of machine settings.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    MachineSettings,
    artifact::{SettingsArtifact, is_settings_type},
    config::parse_shell,
};
use crate::{
    Descriptor, Digest, Image, ImageStore, Listener, Step,
    pull::{PullError, fetch_small},
    registry::{Referrer, RegistryClient},
};

/// Timeout for the search. After it the image is used without new settings.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(20);
/// Limit of the artifacts that are examined, of the usual type and of other types each.
const MAX_ARTIFACTS: usize = 32;
const LARGEST_CONFIG: u64 = 64 << 10;
const LARGEST_SCRIPT: u64 = 1 << 20;

impl ImageStore {
    /// Fetches the settings of an image and records them in the store. Settings of the platform's
    /// manifest have precedence over those of the whole index.
    ///
    /// If the registry cannot answer, the settings that the store has are returned, and the
    /// listener is notified ([`Step::SettingsUnavailable`]).
    ///
    /// # Errors
    /// [`PullError`] if settings exist but are damaged or invalid.
    pub(crate) async fn fetch_settings(
        &self,
        registry: &RegistryClient,
        image: &Image,
        listener: Listener<'_>,
    ) -> Result<MachineSettings, PullError> {
        let (reference, manifest) = (&image.reference, &image.manifest.digest);
        let search = self.search_settings(registry, manifest, &image.descriptor.digest);
        let found = match timeout(SEARCH_TIMEOUT, search).await {
            Ok(found) => found,
            Err(_) => Err(registry.timed_out(SEARCH_TIMEOUT).into()),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) if error.is_integrity_or_store_error() => return Err(error),
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!("cannot fetch machine settings of {reference}: {reason}");
                listener(Step::SettingsUnavailable { reason }.into());
                return Ok(self
                    .stored_settings(reference, manifest)?
                    .unwrap_or_default());
            }
        };
        let settings = match &found {
            Some((artifact, _)) => self.fetch_content(registry, artifact).await?,
            None => MachineSettings::default(),
        };
        let descriptor = found.as_ref().map(|(_, descriptor)| descriptor);
        self.record_settings(reference, manifest, descriptor)?;
        Ok(settings)
    }

    /// Searches the referrers of the manifest, then those of the index.
    async fn search_settings(
        &self,
        registry: &RegistryClient,
        manifest: &Digest,
        index: &Digest,
    ) -> Result<Option<(SettingsArtifact, Descriptor)>, PullError> {
        let mut has_api = true;
        for subject in [manifest, index] {
            let referrers = registry.list_referrers(subject, &mut has_api).await?;
            if let Some(found) = self.choose_artifact(registry, subject, referrers).await? {
                return Ok(Some(found));
            }
            if manifest == index {
                break;
            }
        }
        Ok(None)
    }

    /// Chooses the newest artifact of the usual type, otherwise the newest of any type.
    async fn choose_artifact(
        &self,
        registry: &RegistryClient,
        subject: &Digest,
        mut referrers: Vec<Referrer>,
    ) -> Result<Option<(SettingsArtifact, Descriptor)>, PullError> {
        referrers.sort_by_key(|referrer| referrer.descriptor.digest);
        referrers.dedup_by_key(|referrer| referrer.descriptor.digest);
        let (typed, others): (Vec<_>, Vec<_>) = referrers
            .into_iter()
            .partition(|referrer| is_settings_type(referrer.artifact_type.as_deref()));
        let mut failure = None;
        for referrers in [typed, others] {
            let mut artifacts = Vec::new();
            for referrer in referrers.iter().take(MAX_ARTIFACTS) {
                let descriptor = &referrer.descriptor;
                match self.fetch_artifact(registry, subject, descriptor).await {
                    Ok(artifact) => artifacts.extend(artifact),
                    Err(error) if error.is_integrity_or_store_error() => return Err(error),
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(newest) = SettingsArtifact::newest(artifacts) {
                let chosen = referrers
                    .into_iter()
                    .find(|referrer| referrer.descriptor.digest == newest.digest);
                return Ok(chosen.map(|chosen| (newest, chosen.descriptor)));
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Fetches the manifest of a referrer. `None` when it has no machine settings; only those that
    /// have are stored.
    async fn fetch_artifact(
        &self,
        registry: &RegistryClient,
        subject: &Digest,
        descriptor: &Descriptor,
    ) -> Result<Option<SettingsArtifact>, PullError> {
        let digest = descriptor.digest;
        if let Some(bytes) = self.read_small(&digest)? {
            return Ok(SettingsArtifact::parse(&bytes, digest, Some(subject))?);
        }
        let fetched = registry.fetch_manifest(&digest.to_string()).await?;
        let found = Digest::compute(&fetched.bytes);
        if found != digest {
            return Err(PullError::WrongManifest {
                expected: digest,
                found,
            });
        }
        let artifact = SettingsArtifact::parse(&fetched.bytes, digest, Some(subject))?;
        if artifact.is_some() {
            self.write_blob(descriptor, &fetched.bytes)?;
        }
        Ok(artifact)
    }

    async fn fetch_content(
        &self,
        registry: &RegistryClient,
        artifact: &SettingsArtifact,
    ) -> Result<MachineSettings, PullError> {
        let mut settings = MachineSettings::default();
        if let Some(config) = &artifact.config {
            let document = "machine settings";
            let config = fetch_small(registry, self, config, document, LARGEST_CONFIG).await?;
            settings.shell = parse_shell(&config)?;
        }
        if let Some(script) = &artifact.script {
            let document = "set-up script";
            let script = fetch_small(registry, self, script, document, LARGEST_SCRIPT).await?;
            settings.setup_script = Some(script);
        }
        Ok(settings)
    }
}
