//! Which machines use which images.

use std::path::{Path, PathBuf};

use container_image::{Descriptor, StoredImage};
use container_machine::{Bundle, BundleError, MachineId};

use crate::{Service, error::ServiceError};

/// What a machine needs of the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    pub machine: MachineId,
    /// What it was made from.
    pub image: Option<Descriptor>,
    /// The base that its disk lies on.
    pub base: Option<PathBuf>,
}

impl Use {
    /// Whether it is this image that the machine was made from, or that its disk lies on.
    pub fn is_of(&self, image: &StoredImage) -> bool {
        let made_from = self.image.as_ref();
        made_from.is_some_and(|it| it.digest == image.descriptor.digest)
            || self.base.as_ref().is_some_and(|base| image.has_base(base))
    }

    /// Whether the machine's disk lies on this base. Its name tells: the directory may be reached
    /// by another path than when the machine was made.
    pub fn is_on(&self, base: &Path) -> bool {
        let on = self.base.as_ref();
        on.is_some_and(|on| on.file_name() == base.file_name())
    }
}

impl Service {
    /// What every machine uses, by id, and why that cannot be told of some: a sentence each.
    pub(super) fn uses(&self) -> Result<(Vec<Use>, Vec<String>), ServiceError> {
        let (mut uses, mut broken) = (Vec::new(), Vec::new());
        for id in self.bundles.ids()? {
            let read = self.bundles.get(&id).map_err(ServiceError::from);
            match read.and_then(|bundle| used_by(&id, &bundle)) {
                Ok(used) => uses.push(used),
                // Removed meanwhile.
                Err(_) if self.bundles.get(&id).is_err() => {}
                Err(error) => broken.push(format!("machine {id}: {error}")),
            }
        }
        Ok((uses, broken))
    }
}

fn used_by(id: &MachineId, bundle: &Bundle) -> Result<Use, ServiceError> {
    let image = match bundle.configuration() {
        Ok(machine) => {
            let descriptor = machine.image.descriptor;
            let digest = descriptor.digest.parse().ok();
            digest.map(|digest| Descriptor {
                digest,
                media_type: descriptor.media_type,
                size: descriptor.size,
            })
        }
        // Its disk tells what matters.
        Err(BundleError::Malformed { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let disk = bundle.disk();
    let base = match disk.try_exists() {
        Ok(false) => None,
        _ => container_engine::base_of(&disk)?,
    };
    Ok(Use {
        machine: id.clone(),
        image,
        base,
    })
}
