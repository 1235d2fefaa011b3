//! Artifacts with machine settings, among the referrers of an image.

use jiff::Timestamp;
use oci_spec::image::ImageManifest as OciManifest;

use super::InvalidSettings;
use crate::{Descriptor, Digest};

/// Prefix of the artifact type that artifacts with machine settings usually have.
const ARTIFACT_TYPE: &str = "application/vnd.apple.container.machine";
const CONFIG_TYPE: &str = "application/vnd.apple.container.machine.config.v1+json";
const SCRIPT_TYPE: &str = "application/vnd.apple.container.machine.setup.v1+sh";
const CREATED: &str = "org.opencontainers.image.created";

/// Artifact with machine settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SettingsArtifact {
    /// Creation time according to its annotation.
    created: Option<Timestamp>,
    pub(super) digest: Digest,
    pub(super) config: Option<Descriptor>,
    pub(super) script: Option<Descriptor>,
}

/// Whether an artifact of this type probably has machine settings. Artifacts of other types may
/// have them too: some tools cannot set the type.
pub(super) fn is_settings_type(artifact_type: Option<&str>) -> bool {
    artifact_type.is_some_and(|word| word.starts_with(ARTIFACT_TYPE))
}

impl SettingsArtifact {
    /// Parses the manifest of an artifact. `None` when it has no machine settings, or belongs to
    /// another image than `subject`.
    pub(super) fn parse(
        bytes: &[u8],
        digest: Digest,
        subject: Option<&Digest>,
    ) -> Result<Option<SettingsArtifact>, InvalidSettings> {
        let manifest: OciManifest = serde_json::from_slice(bytes)
            .map_err(|error| InvalidSettings::new(format!("manifest {digest}: {error}")))?;
        if let (Some(wanted), Some(named)) = (subject, manifest.subject())
            && named.digest().to_string() != wanted.to_string()
        {
            return Ok(None);
        }
        let layer = |media_type: &str| {
            let mut layers = manifest
                .layers()
                .iter()
                .filter(|layer| layer.media_type().to_string() == media_type);
            match (layers.next(), layers.next()) {
                (None, _) => Ok(None),
                (Some(layer), None) => Descriptor::try_from(layer)
                    .map(Some)
                    .map_err(InvalidSettings::new),
                (Some(_), Some(_)) => Err(InvalidSettings::new(format!(
                    "manifest {digest} has several layers of type {media_type}"
                ))),
            }
        };
        let (config, script) = (layer(CONFIG_TYPE)?, layer(SCRIPT_TYPE)?);
        if config.is_none() && script.is_none() {
            return Ok(None);
        }
        let annotations = manifest.annotations().as_ref();
        let created = annotations.and_then(|all| all.get(CREATED)?.parse().ok());
        Ok(Some(SettingsArtifact {
            created,
            digest,
            config,
            script,
        }))
    }

    /// Returns the newest artifact. Artifacts without a time are the oldest; of those with the same
    /// time the one with the highest digest is chosen, so that the choice is stable.
    pub(super) fn newest(all: Vec<SettingsArtifact>) -> Option<SettingsArtifact> {
        all.into_iter()
            .max_by_key(|artifact| (artifact.created, artifact.digest))
    }
}
