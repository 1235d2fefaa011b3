//! Content by digest, size and media type.

use oci_spec::image::Descriptor as WrittenDescriptor;

use crate::{Digest, digest::InvalidDigest};

/// What names a blob (image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Of the bytes.
    pub digest: Digest,
    /// What the bytes are.
    pub media_type: String,
    /// How many bytes.
    pub size: u64,
}

impl TryFrom<&WrittenDescriptor> for Descriptor {
    type Error = InvalidDigest;

    fn try_from(written: &WrittenDescriptor) -> Result<Descriptor, InvalidDigest> {
        Ok(Descriptor {
            digest: written.digest().to_string().parse()?,
            media_type: written.media_type().to_string(),
            size: written.size(),
        })
    }
}
