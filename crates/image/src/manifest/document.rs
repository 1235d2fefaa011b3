//! Manifests and indexes.

use oci_spec::image::{
    Descriptor as OciDescriptor, ImageIndex as OciIndex, ImageManifest as OciManifest,
};
use serde::Deserialize;

use super::ManifestError;
use crate::{
    Descriptor, Platform,
    media_type::{self, Compression, ManifestKind},
};

/// Number of indexes that may be nested in one another. Real images nest one or two; the limit
/// stops an index from leading to an endless chain.
const MAX_INDEX_DEPTH: usize = 4;

/// Parsed manifest or index.
#[derive(Debug)]
pub(crate) enum Manifest {
    Index(Vec<IndexEntry>),
    Image(ImageManifest),
}

/// Manifest that an index lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Platform of the image. `None` when the index does not say.
    pub(crate) platform: Option<Platform>,
    pub(crate) manifest: Descriptor,
}

/// Manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageManifest {
    pub(crate) config: Descriptor,
    /// Layers, the lowest first.
    pub(crate) layers: Vec<(Descriptor, Compression)>,
}

/// Number of indexes between a document and the one that a reference names.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct IndexDepth(usize);

impl IndexDepth {
    /// Returns the depth of the manifests that an index at this depth lists.
    pub(crate) fn descend(self) -> Result<IndexDepth, ManifestError> {
        if self.0 == MAX_INDEX_DEPTH {
            return Err(ManifestError::invalid("index")(format!(
                "more than {MAX_INDEX_DEPTH} indexes are nested"
            )));
        }
        Ok(IndexDepth(self.0 + 1))
    }
}

/// Fields that distinguish an index from an image manifest. A document with the fields of both is
/// refused: another reader might take it for the other kind, and see another image.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// Parses a manifest or index and returns it with its media type. `content_type` is the media type
/// that the registry or a descriptor gives it; the document's own takes precedence.
pub(crate) fn parse(
    bytes: &[u8],
    content_type: Option<&str>,
) -> Result<(Manifest, String), ManifestError> {
    let shape: Shape = serde_json::from_slice(bytes).map_err(ManifestError::invalid("manifest"))?;
    let is_image = shape.config.is_some() || shape.layers.is_some();
    let kind = match (shape.manifests.is_some(), is_image) {
        (true, false) => ManifestKind::Index,
        (false, true) => ManifestKind::Image,
        (true, true) => {
            return Err(ManifestError::invalid("manifest")(
                "it has the fields of both an index and an image",
            ));
        }
        (false, false) => return Err(unsupported(&shape, content_type)),
    };
    let media_type = match (shape.media_type.as_deref(), content_type) {
        (Some(media_type), _) => media_type,
        (None, Some(media_type)) if media_type::manifest_kind(media_type).is_some() => media_type,
        _ => media_type::default_media_type(kind),
    };
    if media_type::manifest_kind(media_type) != Some(kind) || shape.schema_version != 2 {
        return Err(unsupported(&shape, content_type));
    }
    let manifest = match kind {
        ManifestKind::Index => Manifest::Index(parse_index(bytes)?),
        ManifestKind::Image => Manifest::Image(parse_image(bytes)?),
    };
    Ok((manifest, media_type.to_owned()))
}

fn unsupported(shape: &Shape, content_type: Option<&str>) -> ManifestError {
    let media_type = shape.media_type.as_deref().or(content_type);
    ManifestError::UnsupportedMediaType {
        document: "manifest",
        media_type: media_type.unwrap_or("none").to_owned(),
    }
}

/// Parses an index. Entries for the platform `unknown` are skipped: BuildKit marks attestations so.
fn parse_index(bytes: &[u8]) -> Result<Vec<IndexEntry>, ManifestError> {
    let index: OciIndex = serde_json::from_slice(bytes).map_err(ManifestError::invalid("index"))?;
    let mut entries = Vec::new();
    for entry in index.manifests() {
        let platform = entry.platform().as_ref().map(|platform| {
            Platform::new(
                &platform.os().to_string(),
                &platform.architecture().to_string(),
                platform.variant().as_deref(),
            )
        });
        let is_manifest = media_type::manifest_kind(entry.media_type().as_ref()).is_some();
        if is_manifest && platform.as_ref().is_none_or(|it| it.os != "unknown") {
            let manifest = descriptor(entry, "index")?;
            entries.push(IndexEntry { platform, manifest });
        }
    }
    Ok(entries)
}

fn parse_image(bytes: &[u8]) -> Result<ImageManifest, ManifestError> {
    let manifest: OciManifest =
        serde_json::from_slice(bytes).map_err(ManifestError::invalid("manifest"))?;
    let config = descriptor(manifest.config(), "manifest")?;
    if !media_type::is_config(&config.media_type) {
        return Err(ManifestError::UnsupportedMediaType {
            document: "configuration",
            media_type: config.media_type,
        });
    }
    let mut layers = Vec::new();
    for layer in manifest.layers() {
        let layer = descriptor(layer, "manifest")?;
        let Some(compression) = media_type::layer_compression(&layer.media_type) else {
            return Err(ManifestError::UnsupportedMediaType {
                document: "layer",
                media_type: layer.media_type,
            });
        };
        layers.push((layer, compression));
    }
    Ok(ImageManifest { config, layers })
}

/// Everything that a manifest or index references, for a push.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReferencedBlobs {
    /// Manifests of an index, of all platforms.
    Manifests(Vec<Descriptor>),
    /// Blobs of an image. Foreign layers are left out: their URLs say where to download them, and
    /// their licences often forbid to push them.
    Image {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
}

/// Parses what a manifest or index references, and returns it with the document's media type.
pub(crate) fn parse_references(
    bytes: &[u8],
    content_type: Option<&str>,
) -> Result<(ReferencedBlobs, String), ManifestError> {
    let (manifest, media_type) = parse(bytes, content_type)?;
    let is_foreign = |it: &OciDescriptor| it.urls().as_ref().is_some_and(|it| !it.is_empty());
    let blobs = match manifest {
        Manifest::Index(_) => {
            let index: OciIndex =
                serde_json::from_slice(bytes).map_err(ManifestError::invalid("index"))?;
            let manifests = index.manifests().iter();
            let manifests = manifests.map(|it| descriptor(it, "index"));
            ReferencedBlobs::Manifests(manifests.collect::<Result<_, _>>()?)
        }
        Manifest::Image(_) => {
            let image: OciManifest =
                serde_json::from_slice(bytes).map_err(ManifestError::invalid("manifest"))?;
            let layers = image.layers().iter().filter(|it| !is_foreign(it));
            let layers = layers.map(|it| descriptor(it, "manifest"));
            ReferencedBlobs::Image {
                config: descriptor(image.config(), "manifest")?,
                layers: layers.collect::<Result<_, _>>()?,
            }
        }
    };
    Ok((blobs, media_type))
}

fn descriptor(
    descriptor: &OciDescriptor,
    document: &'static str,
) -> Result<Descriptor, ManifestError> {
    Descriptor::try_from(descriptor).map_err(ManifestError::invalid(document))
}

/// Returns the manifest of an index that fits this platform best. If none fits, returns the first
/// entry without a platform, which may be a nested index.
pub(crate) fn choose_platform(
    entries: &[IndexEntry],
    wanted: &Platform,
) -> Result<Descriptor, ManifestError> {
    let fitting = entries.iter().filter_map(|entry| {
        let distance = wanted.distance(entry.platform.as_ref()?)?;
        Some((distance, entry))
    });
    let nearest = fitting.min_by_key(|(distance, _)| *distance);
    let chosen = nearest.map(|(_, entry)| entry);
    let without_platform = || entries.iter().find(|entry| entry.platform.is_none());
    match chosen.or_else(without_platform) {
        Some(entry) => Ok(entry.manifest.clone()),
        None => Err(ManifestError::PlatformNotFound {
            wanted: wanted.clone(),
            offered: entries
                .iter()
                .filter_map(|entry| entry.platform.clone())
                .collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Digest;

    #[test]
    fn foreign_layers_are_not_pushed() {
        let descriptor = |content: &[u8], more: &str| {
            let digest = Digest::compute(content);
            format!(
                r#"{{"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": "{digest}", "size": 1{more}}}"#
            )
        };
        let config = descriptor(b"c", "").replace(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.docker.container.image.v1+json",
        );
        let manifest = format!(
            r#"{{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": {config}, "layers": [{}, {}]}}"#,
            descriptor(b"elsewhere", r#", "urls": ["https://a.example/layer"]"#),
            descriptor(b"here", r#", "urls": []"#),
        );
        let (blobs, _) = parse_references(manifest.as_bytes(), None).unwrap();
        let ReferencedBlobs::Image { config, layers } = blobs else {
            panic!("{blobs:?}");
        };
        assert_eq!(config.digest, Digest::compute(b"c"));
        let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        assert_eq!(digests, [Digest::compute(b"here")]);
    }

    fn digest(content: &str) -> String {
        Digest::compute(content.as_bytes()).to_string()
    }

    fn image(layer_type: &str) -> serde_json::Value {
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": digest("config"), "size": 6,
            },
            "layers": [{"mediaType": layer_type, "digest": digest("layer"), "size": 5}],
        })
    }

    fn parsed(document: &serde_json::Value) -> Result<(Manifest, String), ManifestError> {
        parse(document.to_string().as_bytes(), Some("application/json"))
    }

    #[test]
    fn a_docker_manifest_is_parsed() {
        let document = image("application/vnd.docker.image.rootfs.diff.tar.gzip");
        let (manifest, media_type) = parsed(&document).unwrap();
        assert!(media_type.contains("docker"));
        let Manifest::Image(parts) = manifest else {
            panic!("not an image: {manifest:?}");
        };
        assert_eq!(parts.config.digest, Digest::compute(b"config"));
        assert_eq!(parts.layers[0].1, Compression::Gzip);
    }

    #[test]
    fn attestations_of_an_index_are_skipped() {
        let entry = |os: &str, architecture: &str| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(architecture), "size": 1,
                "platform": {"os": os, "architecture": architecture},
            })
        };
        let document = json!({
            "schemaVersion": 2,
            "manifests": [
                entry("linux", "arm64"), entry("linux", "amd64"), entry("unknown", "unknown"),
                {"mediaType": "application/spdx+json", "digest": digest("list"), "size": 1},
            ],
        });
        let (manifest, media_type) = parsed(&document).unwrap();
        assert_eq!(media_type, "application/vnd.oci.image.index.v1+json");
        let Manifest::Index(entries) = manifest else {
            panic!("not an index: {manifest:?}");
        };
        assert_eq!(entries.len(), 2);
        let found = choose_platform(&entries, &"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(found.digest, Digest::compute(b"amd64"));
        let error = choose_platform(&entries, &"linux/s390x".parse().unwrap()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("linux/s390x") && message.contains("linux/arm64, linux/amd64"),
            "{message}"
        );
        let mut nested = document;
        nested["manifests"][0] = json!({
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": digest("nested"), "size": 1,
        });
        let (Manifest::Index(entries), _) = parsed(&nested).unwrap() else {
            panic!("not an index: {nested}");
        };
        let at = |platform: &str| choose_platform(&entries, &platform.parse().unwrap()).unwrap();
        assert_eq!(at("linux/amd64").digest, Digest::compute(b"amd64"));
        assert_eq!(at("linux/s390x").digest, Digest::compute(b"nested"));
    }

    #[test]
    fn documents_of_no_or_both_kinds_are_refused() {
        let mut both = image("application/vnd.oci.image.layer.v1.tar");
        both["manifests"] = json!([]);
        let mut wrong_kind = image("application/vnd.oci.image.layer.v1.tar");
        wrong_kind["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
        let mut old = image("application/vnd.oci.image.layer.v1.tar");
        old["schemaVersion"] = json!(1);
        let mut artifact = image("application/vnd.oci.image.layer.v1.tar");
        artifact["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
        let mut weak = image("application/vnd.oci.image.layer.v1.tar");
        weak["layers"][0]["digest"] = json!("md5:00");
        let documents = [
            both,
            wrong_kind,
            old,
            artifact,
            weak,
            image("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            json!({"schemaVersion": 2}),
            json!([]),
            json!("x"),
        ];
        for document in documents {
            assert!(parsed(&document).is_err(), "{document}");
        }
        assert!(parse(b"", None).is_err());
        assert!(parse(b"\xff\xfe", None).is_err());
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes(), None).is_err());
    }
}
