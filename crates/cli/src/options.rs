//! Options that several verbs have, each worded once.

use std::num::NonZeroUsize;

use clap::Args;

use crate::{progress::ProgressMode, values};

/// Display of progress.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ProgressOptions {
    /// Progress display on standard error.
    #[arg(long = "progress", value_name = "MODE", value_enum, default_value_t)]
    pub mode: ProgressMode,
}

/// Platform of an image.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlatformOptions {
    /// Architecture of the image (amd64, arm64).
    #[arg(short, long)]
    arch: Option<String>,

    /// Operating system of the image.
    #[arg(long)]
    os: Option<String>,

    /// Platform of the image, OS/ARCH[/VARIANT]; overrides --os and --arch.
    #[arg(long)]
    platform: Option<String>,
}

impl PlatformOptions {
    /// Returns the platform as `OS/ARCH[/VARIANT]`, or nothing if none of the options was given.
    pub(crate) fn platform(self) -> Option<String> {
        self.platform.or(match (self.os, self.arch) {
            (None, None) => None,
            (os, arch) => Some(format!(
                "{}/{}",
                os.as_deref().unwrap_or("linux"),
                arch.as_deref().unwrap_or(std::env::consts::ARCH)
            )),
        })
    }
}

/// Access to a registry.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegistryOptions {
    /// Protocol for the registry: http, https, or auto (https, except on loopback and where a
    /// private registry has none).
    #[arg(long, value_name = "SCHEME", value_parser = ["http", "https", "auto"])]
    pub scheme: Option<String>,
}

/// Access to a registry that an image is pulled from.
#[derive(Debug, Clone, Args)]
pub(crate) struct PullOptions {
    #[command(flatten)]
    pub registry: RegistryOptions,

    /// Number of layers that are downloaded at the same time.
    #[arg(long, value_name = "N", default_value = "3", value_parser = values::downloads)]
    pub max_concurrent_downloads: NonZeroUsize,
}
