//! The images and bases that machines use.

use std::path::{Path, PathBuf};

use container_engine::disk::{self, DiskError};
use container_image::{Descriptor, GcRoots, StoredImage};
use container_machine::{Bundle, BundleError, Bundles, MachineConfiguration, MachineId};

/// Image and base that a machine uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageUse {
    pub(super) machine: MachineId,
    /// Image that the machine was made from; `None` for a machine with a damaged configuration.
    pub(super) image: Option<Descriptor>,
    /// Base below the machine's disk; `None` for a machine without a disk.
    pub(super) base: Option<PathBuf>,
}

impl ImageUse {
    /// Whether the machine was made from this image, or has one of its bases below its disk.
    pub(super) fn is_of(&self, image: &StoredImage) -> bool {
        let made_from = self.image.as_ref();
        made_from.is_some_and(|used| used.digest == image.descriptor.digest)
            || self.base.as_ref().is_some_and(|base| image.has_base(base))
    }

    /// Whether this base is below the machine's disk. Compares file names, because the data
    /// directory may have had another path when the machine was made.
    pub(super) fn has_base(&self, base: &Path) -> bool {
        let used = self.base.as_ref();
        used.is_some_and(|used| used.file_name() == base.file_name())
    }
}

/// The images that all machines use.
pub(crate) struct ImageUses {
    /// Ordered by machine.
    pub(super) uses: Vec<ImageUse>,
    /// A message for each machine whose image cannot be determined.
    pub(super) broken: Vec<String>,
}

impl ImageUses {
    /// Reads the images of all machines.
    pub(super) fn read(bundles: &Bundles) -> Result<ImageUses, BundleError> {
        let (mut uses, mut broken) = (Vec::new(), Vec::new());
        for id in bundles.ids()? {
            let bundle = bundles.get(&id).map_err(UseError::from);
            match bundle.and_then(|bundle| image_use(&id, &bundle)) {
                Ok(used) => uses.push(used),
                // Removed after the list was read.
                Err(_) if bundles.get(&id).is_err() => {}
                Err(error) => broken.push(format!("machine {id:?}: {error}")),
            }
        }
        Ok(ImageUses { uses, broken })
    }

    /// Returns the images that machines were made from.
    pub(super) fn images(&self) -> Vec<Descriptor> {
        let uses = self.uses.iter();
        uses.filter_map(|used| used.image.clone()).collect()
    }

    /// Returns everything in the store that machines need.
    pub(crate) fn roots(&self) -> GcRoots {
        let uses = self.uses.iter();
        GcRoots {
            images: self.images(),
            bases: uses.filter_map(|used| used.base.clone()).collect(),
        }
    }

    /// Returns the machines that use this image.
    pub(super) fn machines_of(&self, image: &StoredImage) -> Vec<MachineId> {
        let uses = self.uses.iter().filter(|used| used.is_of(image));
        uses.map(|used| used.machine.clone()).collect()
    }
}

/// The image of a machine cannot be determined.
#[derive(Debug, thiserror::Error)]
enum UseError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Returns the image that a machine was made from, unless its digest is of an unknown algorithm.
pub(crate) fn image_of(machine: &MachineConfiguration) -> Option<Descriptor> {
    let descriptor = &machine.image.descriptor;
    Some(Descriptor {
        digest: descriptor.digest.parse().ok()?,
        media_type: descriptor.media_type.clone(),
        size: descriptor.size,
    })
}

fn image_use(id: &MachineId, bundle: &Bundle) -> Result<ImageUse, UseError> {
    let image = match bundle.configuration() {
        Ok(machine) => image_of(&machine),
        // The disk names the base, which is enough to keep it.
        Err(BundleError::Malformed { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let disk = bundle.disk();
    let base = match disk.try_exists() {
        Ok(false) => None,
        _ => disk::read_base(&disk)?,
    };
    Ok(ImageUse {
        machine: id.clone(),
        image,
        base,
    })
}
