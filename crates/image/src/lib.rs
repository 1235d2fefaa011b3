//! OCI images: references, registries, the image store, ext4 bases.
