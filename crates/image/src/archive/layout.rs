//! OCI image layouts (image-spec, image-layout.md).

use oci_spec::image::{Descriptor as WrittenDescriptor, ImageIndex};

use super::{LoadError, LoadedImage, loaded::group_by_digest, members::Members};
use crate::{Descriptor, Reference, media_type};

const INDEX: &str = "index.json";
/// The specification's annotation: a full reference, or a tag alone.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Docker's and containerd's annotation: a full reference.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// Returns the images that the layout's index lists; `None` when the archive has no index.
pub(super) fn images(
    members: &Members,
    default_registry: &str,
) -> Result<Option<Vec<LoadedImage>>, LoadError> {
    let malformed = |reason: String| LoadError::Malformed {
        name: INDEX,
        reason: reason.chars().take(300).collect(),
    };
    let Some(digest) = members.digest_of(INDEX) else {
        return Ok(None);
    };
    let bytes = members.read_small(&digest)?;
    let bytes = bytes.ok_or_else(|| malformed("it is too large".to_owned()))?;
    let index: ImageIndex =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    let mut images = Vec::new();
    for entry in index.manifests() {
        // Artifacts are not images.
        if media_type::manifest_kind(entry.media_type().as_ref()).is_none() {
            continue;
        }
        let descriptor =
            Descriptor::try_from(entry).map_err(|error| malformed(error.to_string()))?;
        images.push((descriptor, reference(entry, default_registry)));
    }
    if images.is_empty() {
        Err(LoadError::NoImages)
    } else {
        Ok(Some(group_by_digest(images)))
    }
}

/// Returns an image's reference. A tag without a repository is not enough.
fn reference(entry: &WrittenDescriptor, default_registry: &str) -> Option<Reference> {
    let annotations = entry.annotations().as_ref()?;
    let whole = annotations.get(IMAGE_NAME);
    let name = annotations.get(REF_NAME);
    let whole = whole.or(name.filter(|name| name.contains(['/', ':', '@'])))?;
    Reference::parse(whole, default_registry).ok()
}
