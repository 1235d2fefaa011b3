//! `rm` and `prune`: names and images that go, and what nobody needs any more.

use std::time::Duration;

use container_api::{Freed, Progress, PruneRequest, RemoveRequest};
use container_image::{Alone, Meant, Needed, StoredImage};
use container_machine::MachineId;
use tokio::time::timeout;

use super::{
    list::{machines_of, made_from},
    uses::Use,
};
use crate::{Service, caller::Caller, configuration::Configuration, error::ServiceError};

/// Waiting that is not worth a word.
const MOMENT: Duration = Duration::from_millis(300);

impl Service {
    /// Removes a name, an image, or all images that no machine uses. An image that machines use
    /// may lose names, but not its last one.
    pub(super) async fn remove_images(
        &self,
        request: &RemoveRequest,
        caller: &Caller,
    ) -> Result<Freed, ServiceError> {
        let domain = Configuration::read(&self.world.config)?.registry.domain;
        let alone = self.alone(caller).await?;
        let uses = self.all_uses()?;
        let images = self.images.images(&made_from(&uses))?;
        let needed = needed(&uses);
        match request {
            RemoveRequest::One(word) => {
                let freed = match Meant::find(word, &domain, &images)? {
                    Meant::Name(image, name) if image.references.len() > 1 => {
                        alone.untag(&name, &needed)?
                    }
                    meant => {
                        ensure_unused(word, &machines_of(meant.image(), &uses))?;
                        alone.remove(meant.image(), &needed)?
                    }
                };
                Ok(told(freed))
            }
            RemoveRequest::AllUnused => {
                let mut all = container_image::Freed::default();
                for image in &images {
                    match machines_of(image, &uses).as_slice() {
                        [] => all += alone.remove(image, &needed)?,
                        machines => caller.tell(Progress::Note(kept(image, machines))),
                    }
                }
                Ok(told(all))
            }
        }
    }

    /// Removes what neither a name leads to nor a machine needs.
    pub(super) async fn prune_images(
        &self,
        request: &PruneRequest,
        caller: &Caller,
    ) -> Result<Freed, ServiceError> {
        let alone = self.alone(caller).await?;
        let needed = needed(&self.all_uses()?);
        Ok(told(alone.prune(&needed, request.all)?))
    }

    /// Waits until nobody relies on anything that has no name yet.
    async fn alone(&self, caller: &Caller) -> Result<Alone, ServiceError> {
        let mut alone = std::pin::pin!(self.images.alone());
        if let Ok(alone) = timeout(MOMENT, &mut alone).await {
            return Ok(alone?);
        }
        let waiting = "waiting for another command that uses the images";
        caller.tell(Progress::step(waiting));
        tokio::select! {
            alone = alone => Ok(alone?),
            () = caller.gone() => Err(ServiceError::GivenUp),
        }
    }

    /// What every machine uses. Where that cannot be told of one, nothing may be removed.
    fn all_uses(&self) -> Result<Vec<Use>, ServiceError> {
        match self.uses()? {
            (uses, broken) if broken.is_empty() => Ok(uses),
            (_, broken) => Err(ServiceError::UsesUnknown(broken.join("; "))),
        }
    }
}

fn needed(uses: &[Use]) -> Needed {
    Needed {
        images: made_from(uses),
        bases: uses.iter().filter_map(|used| used.base.clone()).collect(),
    }
}

fn ensure_unused(word: &str, machines: &[MachineId]) -> Result<(), ServiceError> {
    match machines.is_empty() {
        true => Ok(()),
        false => Err(ServiceError::ImageInUse {
            image: word.to_owned(),
            machines: names(machines),
        }),
    }
}

fn names(machines: &[MachineId]) -> String {
    let names: Vec<&str> = machines.iter().map(MachineId::as_str).collect();
    names.join(", ")
}

fn kept(image: &StoredImage, machines: &[MachineId]) -> String {
    let name = image.references.first();
    let name = name.map_or_else(|| image.descriptor.digest.to_string(), ToString::to_string);
    format!("{name} stays, as machines use it: {}", names(machines))
}

fn told(freed: container_image::Freed) -> Freed {
    let references = freed.references.iter();
    Freed {
        bases: freed.bases,
        blobs: freed.blobs,
        bytes: freed.bytes,
        images: freed.images.iter().map(ToString::to_string).collect(),
        references: references.map(ToString::to_string).collect(),
    }
}
