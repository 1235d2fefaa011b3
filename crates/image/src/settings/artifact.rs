//! Which of an image's referrers holds machine settings.

use jiff::Timestamp;
use oci_spec::image::ImageManifest;

use super::malformed;
use crate::{Descriptor, Digest, registry::FetchError};

/// What the artifact's type begins with, if its author gave it the usual one.
const TYPE: &str = "application/vnd.apple.container.machine";
const CONFIG: &str = "application/vnd.apple.container.machine.config.v1+json";
const SCRIPT: &str = "application/vnd.apple.container.machine.setup.v1+sh";
const CREATED: &str = "org.opencontainers.image.created";

/// A referrer that holds machine settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Artifact {
    /// When its author says that it was made.
    created: Option<Timestamp>,
    pub(super) digest: Digest,
    pub(super) config: Option<Descriptor>,
    pub(super) script: Option<Descriptor>,
}

/// Whether a referrer that is listed with this type is meant to hold machine settings. Others
/// may all the same: tools without a type to give write one of their own.
pub(super) fn is_named(artifact_type: Option<&str>) -> bool {
    artifact_type.is_some_and(|word| word.starts_with(TYPE))
}

impl Artifact {
    /// Reads a manifest; none if it holds no machine settings, or belongs to another image than
    /// `subject`.
    pub(super) fn parse(
        bytes: &[u8],
        digest: Digest,
        subject: Option<&Digest>,
    ) -> Result<Option<Artifact>, FetchError> {
        let manifest: ImageManifest = serde_json::from_slice(bytes)
            .map_err(|error| malformed(format!("the manifest {digest}: {error}")))?;
        if let (Some(wanted), Some(named)) = (subject, manifest.subject())
            && named.digest().to_string() != wanted.to_string()
        {
            return Ok(None);
        }
        let part = |media_type: &str| {
            let mut parts = manifest
                .layers()
                .iter()
                .filter(|layer| layer.media_type().to_string() == media_type);
            match (parts.next(), parts.next()) {
                (None, _) => Ok(None),
                (Some(part), None) => Descriptor::try_from(part)
                    .map(Some)
                    .map_err(|error| malformed(error.to_string())),
                (Some(_), Some(_)) => Err(malformed(format!(
                    "the manifest {digest} has several parts of type {media_type}"
                ))),
            }
        };
        let (config, script) = (part(CONFIG)?, part(SCRIPT)?);
        if config.is_none() && script.is_none() {
            return Ok(None);
        }
        let annotations = manifest.annotations().as_ref();
        let created = annotations.and_then(|all| all.get(CREATED)?.parse().ok());
        Ok(Some(Artifact {
            created,
            digest,
            config,
            script,
        }))
    }

    /// Of several the newest; of those that do not say when they were made, or were made at
    /// once, the one whose digest comes last.
    pub(super) fn newest(all: Vec<Artifact>) -> Option<Artifact> {
        all.into_iter()
            .max_by_key(|artifact| (artifact.created, artifact.digest))
    }
}
