//! Archives of `docker save` and `podman save` (moby, image/spec/v1.2.md, "Combined Image JSON +
//! Filesystem Changeset Format"): `manifest.json` names configurations and layers by paths.
//!
//! Docker's configurations are a superset of OCI's, so only an OCI manifest has to be made. The
//! same configuration and layers always give the same manifest, so loading twice gives one image.

use std::collections::HashMap;

use oci_spec::{
    OciSpecError,
    image::{DescriptorBuilder, ImageManifestBuilder, MediaType},
};
use serde::Deserialize;

use super::{LoadError, LoadedImage, loaded::group_by_digest, members::Members};
use crate::{
    Descriptor, Digest, Reference,
    manifest::parse_config,
    media_type::{Compression, OCI_CONFIG, OCI_MANIFEST, oci_layer_type},
};

const MANIFEST: &str = "manifest.json";

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Returns the images that `manifest.json` lists; `None` when the archive has no such member.
pub(super) fn images(
    members: &mut Members,
    default_registry: &str,
) -> Result<Option<Vec<LoadedImage>>, LoadError> {
    let Some(digest) = members.digest_of(MANIFEST) else {
        return Ok(None);
    };
    let bytes = members.read_small(&digest)?;
    let bytes = bytes.ok_or_else(|| malformed("it is too large"))?;
    let all: Vec<DockerImage> = serde_json::from_slice(&bytes).map_err(malformed)?;
    if all.is_empty() {
        return Err(LoadError::NoImages);
    }
    let mut images = Vec::new();
    let mut known: HashMap<Digest, Descriptor> = HashMap::new();
    for written in all {
        let names = written.repo_tags.iter().flatten();
        let references: Vec<Reference> = names
            .map(|name| Reference::parse(name, default_registry).map_err(malformed))
            .collect::<Result<_, _>>()?;
        let manifest = manifest(members, &written)?;
        let digest = members.add_document(&manifest)?;
        let descriptor = known.entry(digest).or_insert_with(|| Descriptor {
            digest,
            media_type: OCI_MANIFEST.to_owned(),
            size: manifest.len() as u64,
        });
        if references.is_empty() {
            images.push((descriptor.clone(), None));
        }
        images.extend(
            references
                .into_iter()
                .map(|reference| (descriptor.clone(), Some(reference))),
        );
    }
    Ok(Some(group_by_digest(images)))
}

/// Makes the OCI manifest of an image.
fn manifest(members: &Members, written: &DockerImage) -> Result<Vec<u8>, LoadError> {
    let image = written.repo_tags.iter().flatten().next();
    let image = image.unwrap_or(&written.config);
    let find = |path: &String| {
        let found = members.digest_of(path.trim_start_matches("./"));
        found.ok_or_else(|| LoadError::Missing {
            image: image.clone(),
            what: format!("member {path:?}"),
        })
    };
    let paths = written.layers.iter().flatten();
    let layers: Vec<Digest> = paths.map(find).collect::<Result<_, _>>()?;
    let config = find(&written.config)?;
    check_layers(members, image, &config, &layers)?;
    let mut descriptors = Vec::new();
    for layer in layers {
        descriptors
            .push(descriptor(members, layer, layer_type(members, layer)).map_err(malformed)?);
    }
    let config = descriptor(members, config, OCI_CONFIG).map_err(malformed)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(descriptors)
        .build()
        .and_then(|manifest| manifest.to_string())
        .map_err(malformed)?;
    Ok(manifest.into_bytes())
}

/// Checks the digests of uncompressed layers against the configuration's. Compressed layers are
/// checked when they are unpacked.
fn check_layers(
    members: &Members,
    image: &str,
    config: &Digest,
    layers: &[Digest],
) -> Result<(), LoadError> {
    let unusable = |cause| LoadError::Image {
        image: image.to_owned(),
        cause,
    };
    let bytes = members.read_small(config)?;
    let bytes = bytes.ok_or_else(|| malformed("the configuration is too large"))?;
    let config = parse_config(&bytes, layers.len()).map_err(unusable)?;
    for (expected, found) in config.diff_ids.iter().zip(layers) {
        if layer_compression(members, *found) == Compression::None && expected != found {
            return Err(LoadError::WrongLayer {
                image: image.to_owned(),
                expected: *expected,
                found: *found,
            });
        }
    }
    Ok(())
}

fn layer_compression(members: &Members, layer: Digest) -> Compression {
    members
        .size_and_compression(&layer)
        .map_or(Compression::None, |(_, it)| it)
}

fn layer_type(members: &Members, layer: Digest) -> &'static str {
    oci_layer_type(layer_compression(members, layer))
}

fn descriptor(
    members: &Members,
    digest: Digest,
    media_type: &str,
) -> Result<oci_spec::image::Descriptor, OciSpecError> {
    let written: oci_spec::image::Digest = digest.to_string().parse()?;
    DescriptorBuilder::default()
        .media_type(MediaType::from(media_type))
        .digest(written)
        .size(
            members
                .size_and_compression(&digest)
                .map_or(0, |(size, _)| size),
        )
        .build()
}

fn malformed(reason: impl ToString) -> LoadError {
    LoadError::Malformed {
        name: MANIFEST,
        reason: reason.to_string().chars().take(300).collect(),
    }
}
