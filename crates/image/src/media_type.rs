//! Media types of an image's parts, as OCI (image-spec, media-types.md) and Docker (distribution,
//! "Image Manifest Version 2, Schema 2") name them.

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Largest manifest, index or configuration that is read, in bytes. The distribution-spec asks
/// registries to accept manifests of at least this size ("Pushing manifests").
pub(crate) const LARGEST_MANIFEST: u64 = 4 << 20;

/// Media types of everything that a reference may resolve to.
pub(crate) const MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// Media types of documents that list manifests.
pub(crate) const INDEXES: [&str; 2] = [OCI_INDEX, DOCKER_INDEX];

/// Kind of a document that a reference may resolve to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ManifestKind {
    /// A list of manifests, usually one for each platform.
    Index,
    /// The manifest of one image.
    Image,
}

/// Returns the kind of manifest with this media type; `None` for any other media type.
pub(crate) fn manifest_kind(media_type: &str) -> Option<ManifestKind> {
    match media_type {
        OCI_INDEX | DOCKER_INDEX => Some(ManifestKind::Index),
        OCI_MANIFEST | DOCKER_MANIFEST => Some(ManifestKind::Image),
        _ => None,
    }
}

/// Returns the media type of a manifest that names none itself.
pub(crate) fn default_media_type(kind: ManifestKind) -> &'static str {
    match kind {
        ManifestKind::Index => OCI_INDEX,
        ManifestKind::Image => OCI_MANIFEST,
    }
}

pub(crate) fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Compression of a layer's tar archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Returns OCI's media type of a layer with this compression.
pub(crate) fn oci_layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => OCI_LAYER,
        Compression::Gzip => OCI_LAYER_GZIP,
        Compression::Zstd => OCI_LAYER_ZSTD,
    }
}

/// Returns the compression of layers with this media type; `None` for any other media type.
pub(crate) fn layer_compression(media_type: &str) -> Option<Compression> {
    let format = media_type
        .strip_prefix("application/vnd.oci.image.layer.v1.")
        .or(media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1."))
        .or(media_type.strip_prefix("application/vnd.docker.image.rootfs.diff."))
        .or(media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff."))?;
    match format {
        "tar" => Some(Compression::None),
        "tar+gzip" | "tar.gzip" => Some(Compression::Gzip),
        "tar+zstd" | "tar.zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

/// Returns OCI's media type for a layer's OCI or Docker media type; `None` for any other media
/// type. Docker's and OCI's layers have the same bytes.
pub(crate) fn to_oci_layer_type(media_type: &str) -> Option<&str> {
    let compression = layer_compression(media_type)?;
    let is_oci = media_type.starts_with("application/vnd.oci.");
    Some(if is_oci {
        media_type
    } else {
        oci_layer_type(compression)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_types_of_oci_and_docker_are_known() {
        for (media_type, compression) in [
            (
                "application/vnd.oci.image.layer.v1.tar",
                Some(Compression::None),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Some(Compression::Gzip),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Some(Compression::Zstd),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Some(Compression::Gzip),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                None,
            ),
            ("application/vnd.oci.image.layer.v1.squashfs", None),
            ("text/html", None),
        ] {
            assert_eq!(layer_compression(media_type), compression, "{media_type}");
        }
    }

    #[test]
    fn manifest_kinds_are_distinguished() {
        assert_eq!(manifest_kind(MANIFESTS[0]), Some(ManifestKind::Index));
        assert_eq!(manifest_kind(MANIFESTS[3]), Some(ManifestKind::Image));
        let schema_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert_eq!(manifest_kind(schema_1), None);
    }
}
