//! `rm` and `prune`: remove names and images, and the blobs and bases that nothing needs any more.

use std::time::Duration;

use container_api::{FailureKind, Freed, Progress, PruneRequest, RemoveRequest};
use container_image::{ExclusiveGuard, GcRoots, ResolveError, Resolved, StoreError, StoredImage};
use container_machine::{BundleError, MachineId};
use tokio::time::timeout;

use super::{
    inventory::{Inventory, InventoryError},
    uses::ImageUses,
};
use crate::{failure::RequestError, service::Service, stream_client::StreamClient};

/// Waits for the store's lock shorter than this are not reported.
const REPORT_DELAY: Duration = Duration::from_millis(300);

/// Images cannot be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveImagesError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(
        "cannot remove image {image:?}: it is used by machines: {machines} (delete them first, or give the image another name with: container image tag)"
    )]
    InUse { image: String, machines: String },
    #[error(
        "cannot remove images: the images of some machines cannot be determined (repair or delete these first): {0}"
    )]
    UsesUnknown(String),
    #[error("cancelled: the client has disconnected")]
    Cancelled,
}

impl RequestError for RemoveImagesError {
    fn kind(&self) -> FailureKind {
        match self {
            RemoveImagesError::Inventory(error) => error.kind(),
            RemoveImagesError::Bundle(error) => error.kind(),
            RemoveImagesError::Resolve(error) => error.kind(),
            RemoveImagesError::InUse { .. } => FailureKind::Invalid,
            RemoveImagesError::Store(_)
            | RemoveImagesError::UsesUnknown(_)
            | RemoveImagesError::Cancelled => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Removes a name, an image, or all images that no machine uses. An image that machines use may
    /// lose names, but not its last one.
    pub(crate) async fn remove_images(
        &self,
        request: &RemoveRequest,
        client: &StreamClient,
    ) -> Result<Freed, RemoveImagesError> {
        let guard = self.lock_images(client).await?;
        let _space = self.reserve.release();
        let inventory = self.inventory()?;
        let roots = complete_roots(&inventory.uses)?;
        match request {
            RemoveRequest::One(name) => remove_one(&guard, &inventory, &roots, name),
            RemoveRequest::AllUnused => remove_unused(&guard, &inventory, &roots, client),
        }
    }

    /// Removes everything that neither has a name nor is used by a machine.
    pub(crate) async fn prune_images(
        &self,
        request: &PruneRequest,
        client: &StreamClient,
    ) -> Result<Freed, RemoveImagesError> {
        let guard = self.lock_images(client).await?;
        let _space = self.reserve.release();
        let roots = complete_roots(&ImageUses::read(&self.bundles)?)?;
        Ok(to_wire(guard.prune(&roots, request.all)?))
    }

    /// Waits until no other command depends on blobs that have no name yet.
    async fn lock_images(
        &self,
        client: &StreamClient,
    ) -> Result<ExclusiveGuard, RemoveImagesError> {
        let mut lock = std::pin::pin!(self.images.lock_exclusive());
        if let Ok(guard) = timeout(REPORT_DELAY, &mut lock).await {
            return Ok(guard?);
        }
        let waiting = "waiting for another command that uses the images";
        client.report(Progress::step(waiting));
        tokio::select! {
            guard = lock => Ok(guard?),
            () = client.disconnected() => Err(RemoveImagesError::Cancelled),
        }
    }
}

/// Returns everything that machines need. Fails if that is not known of all machines.
fn complete_roots(uses: &ImageUses) -> Result<GcRoots, RemoveImagesError> {
    if !uses.broken.is_empty() {
        return Err(RemoveImagesError::UsesUnknown(uses.broken.join("; ")));
    }
    Ok(uses.roots())
}

fn remove_one(
    guard: &ExclusiveGuard,
    inventory: &Inventory,
    roots: &GcRoots,
    name: &str,
) -> Result<Freed, RemoveImagesError> {
    let freed = match inventory.resolve(name)? {
        Resolved::Name(image, reference) if image.references.len() > 1 => {
            guard.untag(&reference, roots)?
        }
        resolved => {
            let machines = inventory.machines_of(resolved.image());
            if !machines.is_empty() {
                return Err(RemoveImagesError::InUse {
                    image: name.to_owned(),
                    machines: join(&machines),
                });
            }
            guard.remove(resolved.image(), roots)?
        }
    };
    Ok(to_wire(freed))
}

fn remove_unused(
    guard: &ExclusiveGuard,
    inventory: &Inventory,
    roots: &GcRoots,
    client: &StreamClient,
) -> Result<Freed, RemoveImagesError> {
    let mut freed = container_image::Freed::default();
    for image in &inventory.images {
        let machines = inventory.machines_of(image);
        if machines.is_empty() {
            freed += guard.remove(image, roots)?;
        } else {
            client.report(Progress::Note(kept_note(image, &machines)));
        }
    }
    Ok(to_wire(freed))
}

fn kept_note(image: &StoredImage, machines: &[MachineId]) -> String {
    let name = image.references.first();
    let name = name.map_or_else(|| image.descriptor.digest.to_string(), ToString::to_string);
    format!("{name} is kept: it is used by machines: {}", join(machines))
}

fn join(machines: &[MachineId]) -> String {
    let names: Vec<&str> = machines.iter().map(MachineId::as_str).collect();
    names.join(", ")
}

fn to_wire(freed: container_image::Freed) -> Freed {
    let references = freed.references.iter();
    Freed {
        bases: freed.bases,
        blobs: freed.blobs,
        bytes: freed.bytes,
        images: freed.images.iter().map(ToString::to_string).collect(),
        references: references.map(ToString::to_string).collect(),
        templates: 0,
    }
}
