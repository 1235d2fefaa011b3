//! Images of this host: those that got their name here, and those of other programs.

use tokio::task::spawn_blocking;
use tokio_util::io::SyncIoBridge;

use super::{PullError, request::Pull};
use crate::{
    Digest, Image, LoadOptions, LocalStore, Step, Variant,
    local::{self, LocalImage, LocalStoreError},
};

impl Pull<'_> {
    /// Looks for the image on this host. `None` when the registry must be asked: for a digest, and
    /// for a name that a registry gave.
    ///
    /// A name that was imported from another program is looked up there each time, because the
    /// program may have rebuilt the image.
    pub(super) async fn look_up_on_host(
        &self,
        stores: &[LocalStore],
    ) -> Result<Option<Image>, PullError> {
        let (store, reference) = (self.store, self.reference);
        if reference.digest().is_some()
            || (store.find_reference(reference)?.is_some() && !store.is_local_name(reference)?)
        {
            return Ok(None);
        }
        let stored = self.stored()?;
        if stored.is_some() && !store.is_imported(reference)? {
            return Ok(stored);
        }
        let environment = &self.options.environment;
        let found = local::find(stores, reference, self.platform, environment, self.listener).await;
        let Some(found) = found else {
            return Ok(stored);
        };
        let is_same =
            |image: &Image| [image.config_digest, image.manifest.digest].contains(&found.id);
        if stored.as_ref().is_some_and(is_same) {
            return Ok(stored);
        }
        if self.assign_to_stored(found.id).await?
            && let Some(image) = self.stored()?
        {
            return Ok(Some(image));
        }
        self.report(Step::Importing {
            store: found.store.clone(),
        });
        self.import(found).await?;
        self.stored()
    }

    /// Assigns the reference to the image with this id if the store has it under another name.
    /// Returns whether it has.
    async fn assign_to_stored(&self, id: Digest) -> Result<bool, PullError> {
        let is_it = |variant: &Variant| {
            [variant.config_descriptor.digest, variant.manifest.digest].contains(&id)
        };
        let images = self.store.images(&[])?;
        let known = images.iter().find(|image| image.variants.iter().any(is_it));
        let Some(image) = known else {
            return Ok(false);
        };
        let guard = self.store.lock_shared().await?;
        let name = image.references.first();
        self.store.tag(&guard, image, name, self.reference)?;
        self.store.mark_imported(self.reference)?;
        Ok(true)
    }

    /// Loads the image of another program under the reference.
    async fn import(&self, image: LocalImage) -> Result<(), PullError> {
        let origin = image.store.clone();
        let archive = image.open(&self.options.environment).await?;
        let options = LoadOptions {
            default_registry: self.reference.registry().to_owned(),
            most_bytes: self.store.limits().most_bytes,
            name_override: Some(self.reference.clone()),
        };
        let (store, guard) = (self.store.clone(), self.store.lock_shared().await?);
        let (to, bytes) = tokio::io::duplex(local::CHUNK);
        let bytes = SyncIoBridge::new(bytes);
        let load = spawn_blocking(move || store.load(&guard, bytes, &options, &|_| {}));
        // Not in the thread, which nothing interrupts: it holds the store's lock.
        let passed_on = local::pass_on(archive.bytes, to, local::STALL_TIMEOUT);
        let (passed_on, loaded) = tokio::join!(passed_on, load);
        let failed = |reason: String| LocalStoreError {
            store: origin.clone(),
            reason,
        };
        passed_on.map_err(|error| failed(error.to_string()))?;
        // If the program failed, its message is more specific than that of a truncated archive.
        if let Some(writer) = archive.writer {
            writer.finish().await?;
        }
        match loaded {
            Ok(Ok(_)) => Ok(self.store.mark_imported(self.reference)?),
            Ok(Err(error)) => Err(failed(error.to_string()).into()),
            Err(panic) => Err(failed(panic.to_string()).into()),
        }
    }
}
