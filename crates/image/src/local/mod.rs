//! Images of other programs on this host (Docker, podman, buildah), so that an image that was just
//! built need not be pushed to a registry first.
//!
//! - [`find`] searches the stores for an image;
//! - [`engine`] speaks to engines with Docker's API;
//! - [`storage`] runs podman or buildah;
//! - [`archive`] is the stream that both return.

mod archive;
mod engine;
mod error;
mod storage;

use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;

pub use error::LocalStoreError;

pub(crate) use archive::{CHUNK, LocalArchive, STALL_TIMEOUT, pass_on};

use crate::{Digest, Environment, Listener, Platform, Reference};
use engine::EngineImage;
use storage::StorageImage;

/// Image store of other programs on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalStore {
    /// Engine with Docker's API (Docker, podman), accessed over its socket.
    Docker,
    /// containers-storage, which podman, buildah and skopeo share, accessed through one of them.
    ContainersStorage,
}

/// Timeout for the search in one store.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Image in a store of another program.
#[derive(Debug)]
pub(crate) struct LocalImage {
    /// Digest of its configuration or its manifest.
    pub(crate) id: Digest,
    /// Description of the store, for messages.
    pub(crate) store: String,
    source: LocalSource,
}

#[derive(Debug)]
enum LocalSource {
    Engine(EngineImage),
    Storage(StorageImage),
}

impl LocalImage {
    /// Starts reading the image as an archive.
    pub(crate) async fn open(
        self,
        environment: &Environment,
    ) -> Result<LocalArchive, LocalStoreError> {
        match self.source {
            LocalSource::Engine(image) => image.open(&self.store).await,
            LocalSource::Storage(image) => image.open(environment),
        }
    }
}

/// Returns the image from the first store that has it for this platform. A missing or failing store
/// is skipped; if the environment names the engine, the listener is notified.
pub(crate) async fn find(
    stores: &[LocalStore],
    reference: &Reference,
    platform: &Platform,
    environment: &Environment,
    listener: Listener<'_>,
) -> Option<LocalImage> {
    for store in stores {
        let found = match store {
            LocalStore::Docker => {
                let find = engine::find(reference, platform, environment, listener);
                timeout(SEARCH_TIMEOUT, find).await.map(|found| {
                    found.map(|(id, store, image)| LocalImage {
                        id,
                        store,
                        source: LocalSource::Engine(image),
                    })
                })
            }
            LocalStore::ContainersStorage => {
                let find = storage::find(reference, platform, environment);
                timeout(SEARCH_TIMEOUT, find).await.map(|found| {
                    found.map(|image| LocalImage {
                        id: image.id(),
                        store: image.store().to_owned(),
                        source: LocalSource::Storage(image),
                    })
                })
            }
        };
        match found {
            Ok(Some(image)) => return Some(image),
            Ok(None) => {}
            Err(_) => {
                tracing::debug!("search in {store:?} timed out");
                if let LocalStore::Docker = store {
                    let reason = format!("timed out after {} s", SEARCH_TIMEOUT.as_secs());
                    engine::report_problem(environment, &reason, listener);
                }
            }
        }
    }
    None
}
