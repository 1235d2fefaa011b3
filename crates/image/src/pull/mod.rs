//! Pulls: from a reference to a complete image in the store.
//!
//! A pull has two steps:
//!
//! 1. [`look_up`] resolves the reference, in the store, at another program on this host
//!    ([`import`]), or at the registry;
//! 2. [`fetch`] downloads the missing blobs ([`download`]) and machine settings, and records the
//!    reference.
//!
//! [`stored`] finds an image that is complete in the store, and [`resolved`] builds an image from
//! its documents for both.

mod download;
mod error;
mod fetch;
mod import;
mod look_up;
mod request;
mod resolved;
mod stored;

use std::{
    path::PathBuf,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
};

use futures::future::{Either, select};

pub use error::PullError;
pub use request::{ImageSources, PullOptions};

pub(crate) use download::fetch_small;

use crate::{Image, ImageError, ImageStore, Listener, Platform, Reference};
use look_up::LookUp;
use request::Pull;

impl ImageStore {
    /// Ensures that the image is in the store, fetching only the missing blobs.
    ///
    /// A reference with a digest never changes its meaning, so an image in the store is used
    /// without any request. A tag is resolved at its registry each time. If the registry cannot be
    /// reached, the image in the store is used, and the listener is notified ([`Step::Offline`]).
    /// The [`MachineSettings`] of the image are fetched whenever the registry is asked.
    ///
    /// [`Step::Offline`]: crate::Step::Offline
    /// [`MachineSettings`]: crate::MachineSettings
    ///
    /// # Errors
    /// [`ImageError::Pull`]. Blobs that were received completely stay in the store for the next
    /// attempt, nothing else does. Dropping the future has the same effect.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
        listener: Listener<'_>,
    ) -> Result<Image, ImageError> {
        let pull = Pull {
            store: self,
            reference,
            platform,
            options,
            listener,
        };
        let image = pull_image(&pull).await;
        image.map_err(|cause| ImageError::pull(reference, cause))
    }

    /// [Pulls](ImageStore::pull) an image and creates its base of `size` bytes meanwhile: layers
    /// are unpacked while they are received.
    ///
    /// # Errors
    /// [`ImageError::Pull`] and [`ImageError::Unpack`].
    pub async fn pull_to_base(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
        size: u64,
        listener: Listener<'_>,
    ) -> Result<(Image, PathBuf), ImageError> {
        let pull = Pull {
            store: self,
            reference,
            platform,
            options,
            listener,
        };
        pull_to_base(&pull, size).await
    }
}

async fn pull_image(pull: &Pull<'_>) -> Result<Image, PullError> {
    // Held until the reference is recorded; until then a prune would remove the blobs.
    let _guard = pull.store.lock_shared().await?;
    match pull.look_up().await? {
        LookUp::Complete(image) => Ok(image),
        LookUp::Incomplete { image, registry } => {
            let arrivals = pull.store.arrivals(image.blobs());
            pull.fetch(&registry, &image, &arrivals).await
        }
    }
}

async fn pull_to_base(pull: &Pull<'_>, size: u64) -> Result<(Image, PathBuf), ImageError> {
    let failed = |cause| ImageError::pull(pull.reference, cause);
    // As in `pull_image`.
    let _guard = pull.store.lock_shared().await?;
    let (image, registry) = match pull.look_up().await.map_err(failed)? {
        LookUp::Complete(image) => {
            let base = pull.store.ensure_base(&image, size, pull.listener).await?;
            return Ok((image, base));
        }
        LookUp::Incomplete { image, registry } => (image, registry),
    };
    let arrivals = pull.store.arrivals(image.blobs());
    let is_fetched = AtomicBool::new(false);
    let fetch = async {
        let fetched = pull.fetch(&registry, &image, &arrivals).await;
        let fetched = fetched.map_err(failed)?;
        is_fetched.store(true, Ordering::Relaxed);
        Ok(fetched)
    };
    // Progress has one step at a time: the download, then what remains to be unpacked.
    let listener = |progress| {
        if is_fetched.load(Ordering::Relaxed) {
            (pull.listener)(progress);
        }
    };
    let unpack = pull
        .store
        .ensure_base_while_fetching(&image, size, &arrivals, &listener);
    match select(pin!(fetch), pin!(unpack)).await {
        Either::Left((fetched, unpack)) => {
            // After a failed fetch this ends at once, because the arrivals are cancelled.
            let base = unpack.await;
            Ok((fetched?, base?))
        }
        // Only the fetch knows why the layer is missing.
        Either::Right((Err(error), fetch)) if error.is_missing_layer() => {
            fetch.await.and(Err(error))
        }
        Either::Right((base, fetch)) => {
            let base = base?;
            Ok((fetch.await?, base))
        }
    }
}
