//! Descriptors: references to blobs by digest, size and media type.

use oci_spec::image::Descriptor as OciDescriptor;

use crate::{Digest, digest::InvalidDigest};

/// Reference to a blob (image-spec, descriptor.md) whose digest is of a supported algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// Media type of the blob.
    pub media_type: String,
    /// Length of the blob in bytes.
    pub size: u64,
}

impl TryFrom<&OciDescriptor> for Descriptor {
    type Error = InvalidDigest;

    fn try_from(descriptor: &OciDescriptor) -> Result<Descriptor, InvalidDigest> {
        Ok(Descriptor {
            digest: descriptor.digest().to_string().parse()?,
            media_type: descriptor.media_type().to_string(),
            size: descriptor.size(),
        })
    }
}
