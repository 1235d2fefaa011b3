//! First step of a pull: resolving the reference.

use super::{
    ImageSources, PullError, download::fetch_small, request::Pull, resolved::ResolvedManifest,
};
use crate::{
    Descriptor, Digest, Image, Step,
    manifest::{self, IndexDepth, Manifest},
    media_type::LARGEST_MANIFEST,
    registry::RegistryClient,
};

/// Image that a reference resolves to.
pub(super) enum LookUp {
    /// All of it is in the store.
    Complete(Image),
    /// Layers and machine settings may be missing. The registry has them.
    Incomplete {
        image: Image,
        registry: Box<RegistryClient>,
    },
}

impl Pull<'_> {
    pub(super) async fn look_up(&self) -> Result<LookUp, PullError> {
        if self.reference.digest().is_some()
            && let Some(image) = self.stored()?
        {
            return Ok(LookUp::Complete(image));
        }
        if let ImageSources::LocalFirst(stores) = &self.options.sources
            && let Some(image) = self.look_up_on_host(stores).await?
        {
            return Ok(LookUp::Complete(image));
        }
        self.report(Step::Resolving);
        match self.look_up_at_registry().await {
            Ok((image, registry)) => {
                for reason in registry.credential_problems() {
                    self.report(Step::CredentialsSkipped { reason });
                }
                let registry = Box::new(registry);
                Ok(LookUp::Incomplete { image, registry })
            }
            Err(error) if error.is_offline() => match self.stored()? {
                Some(image) => {
                    let reason = error.to_string();
                    tracing::warn!("using the stored image {}: {reason}", self.reference);
                    self.report(Step::Offline { reason });
                    Ok(LookUp::Complete(image))
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Returns the image if it is complete in the store.
    pub(super) fn stored(&self) -> Result<Option<Image>, PullError> {
        self.store.stored_image(self.reference, self.platform)
    }

    async fn look_up_at_registry(&self) -> Result<(Image, RegistryClient), PullError> {
        let registry = RegistryClient::new(self.reference, self.access()).await?;
        let resolved = self.resolve(&registry).await?;
        let config = &resolved.manifest.config;
        let config = fetch_small(
            &registry,
            self.store,
            config,
            "configuration",
            LARGEST_MANIFEST,
        );
        let config = config.await?;
        let image = resolved.into_image(self.reference, self.platform, &config)?;
        Ok((image, registry))
    }

    /// Follows the reference through indexes to the manifest of the platform.
    async fn resolve(&self, registry: &RegistryClient) -> Result<ResolvedManifest, PullError> {
        let name = self.reference.manifest_name();
        let digest = self.reference.digest();
        let (top, mut parsed) = self.fetch_manifest(registry, name, digest).await?;
        let (mut descriptor, mut depth) = (top.clone(), IndexDepth::default());
        loop {
            match parsed {
                Manifest::Image(manifest) => {
                    return Ok(ResolvedManifest {
                        top,
                        descriptor,
                        manifest,
                    });
                }
                Manifest::Index(entries) => {
                    depth = depth.descend()?;
                    let chosen = manifest::choose_platform(&entries, self.platform)?.digest;
                    let name = chosen.to_string();
                    (descriptor, parsed) =
                        self.fetch_manifest(registry, &name, Some(chosen)).await?;
                }
            }
        }
    }

    /// Returns a manifest from the store if its digest is known, otherwise from the registry.
    async fn fetch_manifest(
        &self,
        registry: &RegistryClient,
        name: &str,
        digest: Option<Digest>,
    ) -> Result<(Descriptor, Manifest), PullError> {
        if let Some(digest) = digest
            && let Some(stored) = self.store.read_manifest(&digest, None)?
        {
            return Ok(stored);
        }
        let fetched = registry.fetch_manifest(name).await?;
        let found = Digest::compute(&fetched.bytes);
        if let Some(expected) = digest
            && expected != found
        {
            return Err(PullError::WrongManifest { expected, found });
        }
        let (parsed, media_type) = manifest::parse(&fetched.bytes, fetched.media_type.as_deref())?;
        let descriptor = Descriptor {
            digest: found,
            media_type,
            size: fetched.bytes.len() as u64,
        };
        self.store.write_blob(&descriptor, &fetched.bytes)?;
        Ok((descriptor, parsed))
    }
}
