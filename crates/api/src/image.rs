//! Images on the wire.

use std::num::NonZeroUsize;

use container_machine::{Descriptor, MachineId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::CallerEnvironment;

/// Which image is to be fetched, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PullRequest {
    /// The image's reference as the person wrote it.
    pub image: String,
    /// `os/arch[/variant]`; the host's where there is none.
    pub platform: Option<String>,
    /// `http`, `https` or `auto`.
    pub scheme: Option<String>,
    /// Layers fetched at once; three where nothing is said.
    pub max_concurrent_downloads: Option<NonZeroUsize>,
    /// What the environment of whoever asks says.
    pub environment: CallerEnvironment,
}

/// The image that was fetched, or was here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Its name with the digest that the reference led to.
    pub reference: String,
}

/// Which image is to be sent to its registry, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PushRequest {
    /// The image's reference as the person wrote it.
    pub image: String,
    /// `http`, `https` or `auto`.
    pub scheme: Option<String>,
    /// What the environment of whoever asks says.
    pub environment: CallerEnvironment,
}

/// The image that is at the registry now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// Its name with the digest that the reference leads to there.
    pub reference: String,
}

/// All images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// One for each reference, in the order of their names; those without a name last.
    pub images: Vec<ImageSummary>,
    /// Of machines of which it cannot be told what they use, why: a sentence for people each.
    pub broken: Vec<String>,
}

/// An image as a list has it, under one of its names. Fields stand in the order of their names, and
/// one that is absent is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSummary {
    /// When it was made, if its maker says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_date: Option<Timestamp>,
    /// Of what the reference leads to.
    pub digest: String,
    /// Bytes of disk that its content takes, with the file systems made from it.
    pub disk_size: u64,
    /// Those that were made from it.
    pub machines: Vec<MachineId>,
    /// As people type it, without the tag; none if its names mean other images now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Those whose every part is here.
    pub platforms: Vec<String>,
    /// In full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Of `disk_size`, what other references need as well.
    pub shared_size: u64,
    /// The tag, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Which images are to be told whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectRequest {
    /// References, digests or beginnings of digests.
    pub images: Vec<String>,
    /// `os/arch[/variant]`; the host's, or the first that is here, where there is none.
    pub platform: Option<String>,
}

/// An image, told whole. Fields stand in the order of their names, and one that is absent is left
/// out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDetails {
    /// The file systems that were made from it.
    pub bases: Vec<ImageBase>,
    /// What it says about its programs.
    pub config: ImageConfig,
    /// When it was made, if its maker says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_date: Option<Timestamp>,
    /// What its references lead to.
    pub descriptor: Descriptor,
    /// Bytes of disk that its content takes, with the file systems made from it.
    pub disk_size: u64,
    /// How it was made, if its maker says.
    pub history: Vec<ImageHistory>,
    /// The lowest first.
    pub layers: Vec<Descriptor>,
    /// Those that were made from it.
    pub machines: Vec<MachineId>,
    /// The platform's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Descriptor>,
    /// The platform that `config`, `history`, `layers` and `manifest` are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Those whose every part is here.
    pub platforms: Vec<String>,
    /// What it is called here, in full.
    pub references: Vec<String>,
    /// Of `disk_size`, what other images need as well.
    pub shared_size: u64,
}

/// What an image says about its programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageConfig {
    /// What to run, or the entry point's arguments.
    pub command: Vec<String>,
    /// What to run.
    pub entrypoint: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// Whatever its maker says about it.
    pub labels: std::collections::BTreeMap<String, String>,
    /// How to stop it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// As whom to run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where to run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
}

/// A step in the making of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageHistory {
    /// Whatever else was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_date: Option<Timestamp>,
    /// Whether it made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// A file system that was made from an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageBase {
    /// Bytes of disk that it takes.
    pub disk_size: u64,
    /// The machines whose disks lie on it.
    pub machines: Vec<MachineId>,
    /// The file.
    pub path: std::path::PathBuf,
}

/// Another name for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRequest {
    /// A reference, a digest or the beginning of a digest.
    pub source: String,
    /// The name.
    pub target: String,
}

/// The name that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagged {
    /// In full.
    pub reference: String,
}

/// What is to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RemoveRequest {
    /// A reference, a digest or the beginning of a digest.
    One(String),
    /// Every image that no machine uses.
    AllUnused,
}

/// What is to be tidied away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRequest {
    /// Images with a name as well, if no machine uses them.
    pub all: bool,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freed {
    /// File systems made from images.
    pub bases: usize,
    /// Pieces of content.
    pub blobs: usize,
    /// Bytes of disk that all of it took.
    pub bytes: u64,
    /// Digests of images that are gone.
    pub images: Vec<String>,
    /// Names that mean nothing any more.
    pub references: Vec<String>,
}

/// What came out of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The images.
    pub images: Vec<LoadedImage>,
}

/// An image that came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedImage {
    /// Of an index, or of a manifest itself.
    pub digest: String,
    /// What the archive calls it, in full; nothing if it does not say.
    pub references: Vec<String>,
}

/// Which images are to be put into an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveRequest {
    /// References, digests or beginnings of digests.
    pub images: Vec<String>,
    /// What the archive is to look like.
    pub format: ArchiveFormat,
    /// `os/arch[/variant]`: this platform's alone.
    pub platform: Option<String>,
}

/// What an archive of images looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveFormat {
    /// An OCI image layout.
    #[default]
    Oci,
    /// What `docker save` writes and every version of `docker load` reads.
    Docker,
}
