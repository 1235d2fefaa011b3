//! Manifests, indexes and image configurations, read from bytes that nobody vouches for but
//! their digest (image-spec, manifest.md, image-index.md, config.md).

use jiff::Timestamp;
use oci_spec::image::{
    Descriptor as WrittenDescriptor, ImageConfiguration, ImageIndex, ImageManifest,
};
use serde::Deserialize;

use crate::{
    Descriptor, Digest, Platform,
    media_type::{self, Compression, ManifestKind},
    registry::FetchError,
};

/// What a reference leads to.
#[derive(Debug)]
pub(crate) enum Manifest {
    Index(Vec<Offer>),
    Image(ImageParts),
}

/// An entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// What it is for, if the index says.
    pub(crate) platform: Option<Platform>,
    pub(crate) manifest: Descriptor,
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageParts {
    pub(crate) config: Descriptor,
    /// The lowest first.
    pub(crate) layers: Vec<(Descriptor, Compression)>,
}

/// The fields that tell what a document is. Both kinds at once is somebody's trick: two readers
/// would see two images.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest; `content_type` is what the registry or a descriptor called it. Returns its
/// media type too.
pub(crate) fn parse(
    bytes: &[u8],
    content_type: Option<&str>,
) -> Result<(Manifest, String), FetchError> {
    let shape: Shape = serde_json::from_slice(bytes).map_err(malformed("manifest"))?;
    let has_image_parts = shape.config.is_some() || shape.layers.is_some();
    let by_shape = match (shape.manifests.is_some(), has_image_parts) {
        (true, false) => ManifestKind::Index,
        (false, true) => ManifestKind::Image,
        (true, true) => {
            return Err(malformed("manifest")("it is an index and an image at once"));
        }
        (false, false) => return Err(unsupported(&shape, content_type)),
    };
    let media_type = match (shape.media_type.as_deref(), content_type) {
        (Some(media_type), _) => media_type,
        (None, Some(media_type)) if media_type::manifest_kind(media_type).is_some() => media_type,
        _ => media_type::unnamed(by_shape),
    };
    if media_type::manifest_kind(media_type) != Some(by_shape) || shape.schema_version != 2 {
        return Err(unsupported(&shape, content_type));
    }
    let manifest = match by_shape {
        ManifestKind::Index => Manifest::Index(entries(bytes)?),
        ManifestKind::Image => Manifest::Image(parts(bytes)?),
    };
    Ok((manifest, media_type.to_owned()))
}

fn unsupported(shape: &Shape, content_type: Option<&str>) -> FetchError {
    let said = shape.media_type.as_deref().or(content_type);
    FetchError::UnsupportedMediaType {
        what: "manifest",
        media_type: said.unwrap_or("none").to_owned(),
    }
}

/// What is for an unknown platform is left out: attestations are marked so.
fn entries(bytes: &[u8]) -> Result<Vec<Offer>, FetchError> {
    let index: ImageIndex = serde_json::from_slice(bytes).map_err(malformed("index"))?;
    let mut entries = Vec::new();
    for entry in index.manifests() {
        let platform = entry.platform().as_ref().map(|written| {
            Platform::new(
                &written.os().to_string(),
                &written.architecture().to_string(),
                written.variant().as_deref(),
            )
        });
        let is_known = media_type::manifest_kind(entry.media_type().as_ref()).is_some();
        if is_known && platform.as_ref().is_none_or(|it| it.os != "unknown") {
            let manifest = descriptor(entry, "index")?;
            entries.push(Offer { platform, manifest });
        }
    }
    Ok(entries)
}

fn parts(bytes: &[u8]) -> Result<ImageParts, FetchError> {
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(malformed("manifest"))?;
    let config = descriptor(manifest.config(), "manifest")?;
    if !media_type::is_config(&config.media_type) {
        return Err(FetchError::UnsupportedMediaType {
            what: "configuration",
            media_type: config.media_type,
        });
    }
    let mut layers = Vec::new();
    for layer in manifest.layers() {
        let layer = descriptor(layer, "manifest")?;
        let Some(compression) = media_type::layer_compression(&layer.media_type) else {
            return Err(FetchError::UnsupportedMediaType {
                what: "layer",
                media_type: layer.media_type,
            });
        };
        layers.push((layer, compression));
    }
    Ok(ImageParts { config, layers })
}

/// What a manifest names, to be sent on as it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// All of an index, whatever platform it is for.
    Manifests(Vec<Descriptor>),
    /// What an image is made of. Foreign layers, which are to be fetched from elsewhere, are left
    /// out.
    Image {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
}

/// Reads what a manifest names, and the manifest's media type.
pub(crate) fn all_parts(bytes: &[u8], called: Option<&str>) -> Result<(Parts, String), FetchError> {
    let (manifest, media_type) = parse(bytes, called)?;
    let is_foreign = |it: &WrittenDescriptor| it.urls().as_ref().is_some_and(|it| !it.is_empty());
    let parts = match manifest {
        Manifest::Index(_) => {
            let index: ImageIndex = serde_json::from_slice(bytes).map_err(malformed("index"))?;
            let manifests = index.manifests().iter();
            let manifests = manifests.map(|it| descriptor(it, "index"));
            Parts::Manifests(manifests.collect::<Result<_, _>>()?)
        }
        Manifest::Image(_) => {
            let image: ImageManifest =
                serde_json::from_slice(bytes).map_err(malformed("manifest"))?;
            let layers = image.layers().iter().filter(|it| !is_foreign(it));
            let layers = layers.map(|it| descriptor(it, "manifest"));
            Parts::Image {
                config: descriptor(image.config(), "manifest")?,
                layers: layers.collect::<Result<_, _>>()?,
            }
        }
    };
    Ok((parts, media_type))
}

fn descriptor(written: &WrittenDescriptor, what: &'static str) -> Result<Descriptor, FetchError> {
    Descriptor::try_from(written).map_err(malformed(what))
}

fn malformed<E: ToString>(what: &'static str) -> impl FnOnce(E) -> FetchError {
    move |error| FetchError::Malformed {
        what,
        reason: error.to_string().chars().take(300).collect(),
    }
}

/// The manifest in an index that serves this platform best; where none is said to, the first of
/// which nothing is said.
pub(crate) fn chosen(offers: &[Offer], wanted: &Platform) -> Result<Descriptor, FetchError> {
    let fitting = offers.iter().filter_map(|offer| {
        let distance = wanted.distance(offer.platform.as_ref()?)?;
        Some((distance, offer))
    });
    let nearest = fitting.min_by_key(|(distance, _)| *distance);
    let chosen = nearest.map(|(_, offer)| offer);
    let unsaid = || offers.iter().find(|offer| offer.platform.is_none());
    match chosen.or_else(unsaid) {
        Some(offer) => Ok(offer.manifest.clone()),
        None => Err(FetchError::NoPlatform {
            wanted: wanted.clone(),
            offered: offers
                .iter()
                .filter_map(|offer| offer.platform.clone())
                .collect(),
        }),
    }
}

/// What an image says about its programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configuration {
    pub(crate) platform: Platform,
    pub(crate) environment: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    pub(crate) working_directory: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    /// Digests of the layers' archives, unpacked; as many as there are layers.
    pub(crate) diff_ids: Vec<Digest>,
    /// When it was made, if its maker says.
    pub(crate) created: Option<Timestamp>,
    /// How it was made, if its maker says.
    pub(crate) history: Vec<HistoryStep>,
}

/// A step in the making of an image (image-spec, config.md, "history").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryStep {
    /// When.
    pub created: Option<Timestamp>,
    /// The command.
    pub created_by: Option<String>,
    /// Whatever else was said.
    pub comment: Option<String>,
    /// Whether it made no layer.
    pub is_empty_layer: bool,
}

/// Reads the configuration of an image with that many layers.
pub(crate) fn configuration(bytes: &[u8], layers: usize) -> Result<Configuration, FetchError> {
    const WHAT: &str = "configuration";
    let written: ImageConfiguration = serde_json::from_slice(bytes).map_err(malformed(WHAT))?;
    let diff_ids = written.rootfs().diff_ids().iter().map(|id| id.parse());
    let diff_ids: Vec<Digest> = diff_ids
        .collect::<Result<_, _>>()
        .map_err(malformed(WHAT))?;
    if diff_ids.len() != layers {
        return Err(malformed(WHAT)(format!(
            "it names {} layers, and its manifest {layers}",
            diff_ids.len()
        )));
    }
    let config = written.config().clone().unwrap_or_default();
    let filled = |word: &Option<String>| word.clone().filter(|word| !word.is_empty());
    Ok(Configuration {
        platform: Platform::new(
            &written.os().to_string(),
            &written.architecture().to_string(),
            written.variant().as_deref(),
        ),
        environment: config.env().clone().unwrap_or_default(),
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        command: config.cmd().clone().unwrap_or_default(),
        working_directory: filled(config.working_dir()),
        user: filled(config.user()),
        stop_signal: filled(config.stop_signal()),
        labels: config
            .labels()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        diff_ids,
        created: time(written.created().as_deref()),
        history: history(&written),
    })
}

fn history(written: &ImageConfiguration) -> Vec<HistoryStep> {
    let steps = written.history().iter().flatten();
    let steps = steps.map(|step| HistoryStep {
        created: time(step.created().as_deref()),
        created_by: step.created_by().clone(),
        comment: step.comment().clone(),
        is_empty_layer: step.empty_layer().unwrap_or_default(),
    });
    steps.collect()
}

fn time(written: Option<&str>) -> Option<Timestamp> {
    written.and_then(|written| written.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn foreign_layers_are_not_sent_on() {
        let descriptor = |content: &[u8], more: &str| {
            let digest = Digest::of(content);
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
        let (parts, _) = all_parts(manifest.as_bytes(), None).unwrap();
        let Parts::Image { config, layers } = parts else {
            panic!("{parts:?}");
        };
        assert_eq!(config.digest, Digest::of(b"c"));
        let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        assert_eq!(digests, [Digest::of(b"here")]);
    }

    fn digest(of: &str) -> String {
        Digest::of(of.as_bytes()).to_string()
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

    fn parsed(document: &serde_json::Value) -> Result<(Manifest, String), FetchError> {
        parse(document.to_string().as_bytes(), Some("application/json"))
    }

    #[test]
    fn a_docker_manifest_is_read() {
        let document = image("application/vnd.docker.image.rootfs.diff.tar.gzip");
        let (manifest, media_type) = parsed(&document).unwrap();
        assert!(media_type.contains("docker"));
        let Manifest::Image(parts) = manifest else {
            panic!("not an image: {manifest:?}");
        };
        assert_eq!(parts.config.digest, Digest::of(b"config"));
        assert_eq!(parts.layers[0].1, Compression::Gzip);
    }

    #[test]
    fn an_index_is_read_without_its_attestations() {
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
        let found = chosen(&entries, &"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(found.digest, Digest::of(b"amd64"));
        let error = chosen(&entries, &"linux/s390x".parse().unwrap()).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("linux/s390x") && said.contains("linux/arm64, linux/amd64"),
            "{said}"
        );
        let mut nested = document;
        nested["manifests"][0] = json!({
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": digest("nested"), "size": 1,
        });
        let (Manifest::Index(entries), _) = parsed(&nested).unwrap() else {
            panic!("not an index: {nested}");
        };
        let at = |platform: &str| chosen(&entries, &platform.parse().unwrap()).unwrap();
        assert_eq!(at("linux/amd64").digest, Digest::of(b"amd64"));
        assert_eq!(at("linux/s390x").digest, Digest::of(b"nested"));
    }

    #[test]
    fn what_is_neither_or_both_is_refused() {
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

    #[test]
    fn a_configuration_with_nulls_is_read() {
        let document = json!({
            "architecture": "amd64", "os": "linux", "config": {
                "Env": ["PATH=/bin"], "Entrypoint": null, "Cmd": ["sh"], "Volumes": null,
                "ExposedPorts": null, "Labels": null, "WorkingDir": "", "User": "",
                "StopSignal": "SIGRTMIN+3", "OnBuild": null, "Hostname": "x",
            },
            "rootfs": {"type": "layers", "diff_ids": [digest("layer")]},
            "history": [{"created_by": "x", "empty_layer": true}],
        });
        let read = configuration(document.to_string().as_bytes(), 1).unwrap();
        assert_eq!(read.platform, "linux/amd64".parse().unwrap());
        assert_eq!(read.environment, ["PATH=/bin"]);
        assert_eq!(read.stop_signal.as_deref(), Some("SIGRTMIN+3"));
        assert_eq!(read.working_directory, None);
        assert_eq!(read.diff_ids, [Digest::of(b"layer")]);
        assert!(configuration(document.to_string().as_bytes(), 2).is_err());
    }
}
