//! Second step of a pull: fetching what is missing and recording the reference.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream, try_join};

use super::{PullError, download::download, request::Pull};
use crate::{Descriptor, Image, Step, progress::Meter, registry::RegistryClient, store::Arrivals};

impl Pull<'_> {
    /// Fetches the missing layers and the machine settings of an image and records its reference.
    /// Whatever the result is, afterwards no arrival is pending.
    pub(super) async fn fetch(
        &self,
        registry: &RegistryClient,
        image: &Image,
        arrivals: &Arrivals,
    ) -> Result<Image, PullError> {
        let arrivals = CancelOnDrop(arrivals);
        let settings = self.store.fetch_settings(registry, image, self.listener);
        let layers = self.fetch_layers(registry, image, arrivals.0);
        let (settings, ()) = try_join!(settings, layers)?;
        self.store
            .record_reference(&image.reference, &image.descriptor)?;
        Ok(Image {
            settings,
            ..image.clone()
        })
    }

    async fn fetch_layers(
        &self,
        registry: &RegistryClient,
        image: &Image,
        arrivals: &Arrivals,
    ) -> Result<(), PullError> {
        // An image may have the same layer twice.
        let mut seen = HashSet::new();
        let missing: Vec<&Descriptor> = image
            .blobs()
            .filter(|blob| seen.insert(blob.digest) && arrivals.get(&blob.digest).is_pending())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let sizes = missing.iter().map(|blob| blob.size);
        // Sizes are what the registry says, and may be anything.
        let total = sizes.clone().fold(0, u64::saturating_add);
        self.store.check_space(total)?;
        let meter = &Meter::new(self.listener, Step::Downloading, sizes);
        let downloads: Vec<_> = missing
            .into_iter()
            .map(|blob| async move {
                let arrival = arrivals.get(&blob.digest);
                download(registry, self.store, blob, &arrival, meter).await?;
                meter.layer_done();
                Ok(())
            })
            .collect();
        stream::iter(downloads)
            .buffer_unordered(self.options.max_concurrent_downloads.max(1))
            .try_collect::<()>()
            .await
    }
}

/// Cancels the pending arrivals when it is dropped. Otherwise the thread that unpacks them would
/// wait forever if the pull fails, or if its future is dropped.
struct CancelOnDrop<'a>(&'a Arrivals);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
