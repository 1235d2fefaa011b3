//! Machine settings, from the registry into the store, and from the store.

use std::time::Duration;

use tokio::time::timeout;

use super::{MachineSettings, artifact::Artifact, artifact::is_named, shell};
use crate::{
    Descriptor, Digest, ImageStore, Listener, Progress, Reference, Step,
    registry::{FetchError, Referrer, Registry},
};

/// How long the search may take before the image is used without.
const PATIENCE: Duration = Duration::from_secs(20);
/// Referrers of each kind that are looked into.
const MOST: usize = 32;
const LARGEST_CONFIG: u64 = 64 << 10;
const LARGEST_SCRIPT: u64 = 1 << 20;

impl ImageStore {
    /// Looks for settings of the platform's manifest, then of what the reference leads to, and
    /// fetches what is not in the store. The store remembers what was found.
    ///
    /// A registry that cannot tell takes nothing away: the settings that the image had before,
    /// if it had any, stay, and the listener hears why.
    ///
    /// # Errors
    /// [`FetchError`] if there are settings that are damaged or that cannot be understood.
    pub(crate) async fn fetch_settings(
        &self,
        registry: &Registry,
        reference: &Reference,
        manifest: &Digest,
        top: &Digest,
        listener: Listener<'_>,
    ) -> Result<MachineSettings, FetchError> {
        let searched = match timeout(PATIENCE, self.search(registry, manifest, top)).await {
            Ok(searched) => searched,
            Err(_) => Err(registry.silent(PATIENCE)),
        };
        let found = match searched {
            Ok(found) => found,
            Err(error @ (FetchError::WrongManifest { .. } | FetchError::Store(_))) => {
                return Err(error);
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!("machine settings of {reference}: {reason}");
                listener(Progress::step(Step::SettingsUnknown { reason }));
                return Ok(self.settings_here(reference, manifest)?.unwrap_or_default());
            }
        };
        let settings = match &found {
            Some((artifact, _)) => self.fetch_parts(registry, artifact).await?,
            None => MachineSettings::default(),
        };
        let remembered = found.as_ref().map(|(_, descriptor)| descriptor);
        self.remember_settings(reference, manifest, remembered)?;
        Ok(settings)
    }

    /// The settings that this image had when its registry was last asked; none if they are not
    /// whole.
    pub(crate) fn settings_here(
        &self,
        reference: &Reference,
        manifest: &Digest,
    ) -> Result<Option<MachineSettings>, FetchError> {
        let Some(descriptor) = self.find_settings(reference, manifest)? else {
            return Ok(Some(MachineSettings::default()));
        };
        let Some(bytes) = self.small(&descriptor.digest)? else {
            return Ok(None);
        };
        let Some(artifact) = Artifact::parse(&bytes, descriptor.digest, None)? else {
            return Ok(Some(MachineSettings::default()));
        };
        let mut settings = MachineSettings::default();
        if let Some(config) = &artifact.config {
            let Some(bytes) = self.small(&config.digest)? else {
                return Ok(None);
            };
            settings.shell = shell(&bytes)?;
        }
        if let Some(script) = &artifact.script {
            let Some(bytes) = self.small(&script.digest)? else {
                return Ok(None);
            };
            settings.setup_script = Some(bytes);
        }
        Ok(Some(settings))
    }

    async fn search(
        &self,
        registry: &Registry,
        manifest: &Digest,
        top: &Digest,
    ) -> Result<Option<(Artifact, Descriptor)>, FetchError> {
        let mut has_api = true;
        for subject in [manifest, top] {
            let referrers = registry.referrers(subject, &mut has_api).await?;
            if let Some(found) = self.choose(registry, subject, referrers).await? {
                return Ok(Some(found));
            }
            if manifest == top {
                break;
            }
        }
        Ok(None)
    }

    /// Those that are called machine settings come before all others.
    async fn choose(
        &self,
        registry: &Registry,
        subject: &Digest,
        mut referrers: Vec<Referrer>,
    ) -> Result<Option<(Artifact, Descriptor)>, FetchError> {
        referrers.sort_by_key(|referrer| referrer.descriptor.digest);
        referrers.dedup_by_key(|referrer| referrer.descriptor.digest);
        let (named, others): (Vec<_>, Vec<_>) = referrers
            .into_iter()
            .partition(|referrer| is_named(referrer.artifact_type.as_deref()));
        let mut failure = None;
        for referrers in [named, others] {
            let mut fitting = Vec::new();
            for referrer in referrers.iter().take(MOST) {
                let descriptor = &referrer.descriptor;
                match self.artifact(registry, subject, descriptor).await {
                    Ok(artifact) => fitting.extend(artifact),
                    Err(error @ (FetchError::WrongManifest { .. } | FetchError::Store(_))) => {
                        return Err(error);
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(newest) = Artifact::newest(fitting) {
                let chosen = referrers
                    .into_iter()
                    .find(|referrer| referrer.descriptor.digest == newest.digest);
                return Ok(chosen.map(|chosen| (newest, chosen.descriptor)));
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// A referrer, if it holds machine settings; its manifest stays in the store then.
    async fn artifact(
        &self,
        registry: &Registry,
        subject: &Digest,
        descriptor: &Descriptor,
    ) -> Result<Option<Artifact>, FetchError> {
        let digest = descriptor.digest;
        if let Some(bytes) = self.small(&digest)? {
            return Artifact::parse(&bytes, digest, Some(subject));
        }
        let fetched = registry.manifest(&digest.to_string()).await?;
        let found = Digest::of(&fetched.bytes);
        if found != digest {
            return Err(FetchError::WrongManifest {
                expected: digest,
                found,
            });
        }
        let artifact = Artifact::parse(&fetched.bytes, digest, Some(subject))?;
        if artifact.is_some() {
            self.keep(descriptor, &fetched.bytes)?;
        }
        Ok(artifact)
    }

    async fn fetch_parts(
        &self,
        registry: &Registry,
        artifact: &Artifact,
    ) -> Result<MachineSettings, FetchError> {
        let mut settings = MachineSettings::default();
        if let Some(config) = &artifact.config {
            let what = "machine settings";
            let config = self
                .fetch_small(registry, config, what, LARGEST_CONFIG)
                .await?;
            settings.shell = shell(&config)?;
        }
        if let Some(script) = &artifact.script {
            let what = "set-up script";
            let script = self
                .fetch_small(registry, script, what, LARGEST_SCRIPT)
                .await?;
            settings.setup_script = Some(script);
        }
        Ok(settings)
    }
}
