//! Images: requests, replies and state.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf};

use container_machine::{Descriptor, MachineId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::CallerEnvironment;

/// Request to pull an image from its registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PullRequest {
    /// Reference of the image as the user typed it.
    pub image: String,
    /// Platform of the image, `os/arch[/variant]`; the host's if absent.
    pub platform: Option<String>,
    /// Scheme of the registry: `http`, `https` or `auto` (if absent).
    pub scheme: Option<String>,
    /// Layers downloaded at the same time; three if absent.
    pub max_concurrent_downloads: Option<NonZeroUsize>,
    /// The caller's environment.
    pub environment: CallerEnvironment,
}

/// Reply to a [`PullRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Reference with the digest that it resolved to.
    pub reference: String,
}

/// Request to push an image to its registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PushRequest {
    /// Reference of the image as the user typed it.
    pub image: String,
    /// Scheme of the registry: `http`, `https` or `auto` (if absent).
    pub scheme: Option<String>,
    /// The caller's environment.
    pub environment: CallerEnvironment,
}

/// Reply to a [`PushRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// Reference with the digest that it resolves to at the registry.
    pub reference: String,
}

/// All images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// One entry per reference, ordered by name; images without a name last.
    pub images: Vec<ImageSummary>,
    /// A message for each machine whose image cannot be determined.
    pub broken: Vec<String>,
}

/// An image in a list, under one of its names. The fields are in alphabetical order; absent ones
/// are omitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSummary {
    /// Time of creation according to the image's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_date: Option<Timestamp>,
    /// Digest of the index or manifest.
    pub digest: String,
    /// Size in bytes of the image's blobs and bases on disk.
    pub disk_size: u64,
    /// Machines that were created from the image.
    pub machines: Vec<MachineId>,
    /// Name as users type it, without the tag; absent for an image without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Platforms for which the image is complete.
    pub platforms: Vec<String>,
    /// Reference with registry and tag; absent for an image without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The part of `disk_size` that other references need as well.
    pub shared_size: u64,
    /// Tag of the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Request for the details of images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectRequest {
    /// References, digests or beginnings of digests.
    pub images: Vec<String>,
    /// Platform, `os/arch[/variant]`. If absent, the host's, or the first complete one.
    pub platform: Option<String>,
}

/// Details of an image. The fields are in alphabetical order; absent ones are omitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDetails {
    /// Bases made from the image.
    pub bases: Vec<ImageBase>,
    /// Configuration of the image's programs.
    pub config: ImageConfig,
    /// Time of creation according to the image's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_date: Option<Timestamp>,
    /// Descriptor of the index or manifest that the references resolve to.
    pub descriptor: Descriptor,
    /// Size in bytes of the image's blobs and bases on disk.
    pub disk_size: u64,
    /// Build steps according to the image's configuration.
    pub history: Vec<ImageHistory>,
    /// Layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// Machines that were created from the image.
    pub machines: Vec<MachineId>,
    /// Manifest of the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Descriptor>,
    /// Platform that `config`, `history`, `layers` and `manifest` belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Platforms for which the image is complete.
    pub platforms: Vec<String>,
    /// Names of the image, with registry and tag.
    pub references: Vec<String>,
    /// The part of `disk_size` that other images need as well.
    pub shared_size: u64,
}

/// Configuration of an image's programs (OCI image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageConfig {
    /// Command, or arguments of the entry point.
    pub command: Vec<String>,
    /// Entry point.
    pub entrypoint: Vec<String>,
    /// Environment variables, `NAME=value`.
    pub environment: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that stops the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// User that the program runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
}

/// Build step of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageHistory {
    /// Comment of the builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Command or instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Time of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_date: Option<Timestamp>,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Base made from an image: an ext4 file that disks of machines are overlays of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageBase {
    /// Size in bytes that the file occupies on disk.
    pub disk_size: u64,
    /// Machines whose disks are overlays of it.
    pub machines: Vec<MachineId>,
    /// Path of the file.
    pub path: PathBuf,
}

/// Request to give an image another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRequest {
    /// Reference, digest or beginning of a digest of the image.
    pub source: String,
    /// The new name as the user typed it.
    pub target: String,
}

/// Reply to a [`TagRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagged {
    /// The new name with registry and tag.
    pub reference: String,
}

/// Request to remove images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RemoveRequest {
    /// A name, or the image that a digest or the beginning of one identifies.
    One(String),
    /// Every image that no machine uses.
    AllUnused,
}

/// Request to remove images without a name, and the blobs and bases that nothing needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRequest {
    /// Whether images with a name are removed too, unless a machine uses them.
    pub all: bool,
}

/// Reply to a [`RemoveRequest`] or [`PruneRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freed {
    /// Number of removed bases.
    pub bases: usize,
    /// Number of removed blobs.
    pub blobs: usize,
    /// Bytes that everything removed occupied on disk.
    pub bytes: u64,
    /// Digests of the removed images.
    pub images: Vec<String>,
    /// Removed names.
    pub references: Vec<String>,
    /// Number of removed templates.
    #[serde(default)]
    pub templates: usize,
}

/// Reply to a load.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The images of the archive.
    pub images: Vec<LoadedImage>,
}

/// An image of a loaded archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedImage {
    /// Digest of the index or manifest.
    pub digest: String,
    /// Names of the image in the archive, with registry and tag.
    pub references: Vec<String>,
}

/// Request to save images in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveRequest {
    /// References, digests or beginnings of digests.
    pub images: Vec<String>,
    /// Format of the archive.
    pub format: ArchiveFormat,
    /// The only platform to save, `os/arch[/variant]`; all platforms if absent.
    pub platform: Option<String>,
}

/// Format of an archive of images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveFormat {
    /// OCI image layout.
    #[default]
    Oci,
    /// The format of `docker save`, which every version of `docker load` reads.
    Docker,
}
