//! Options that several verbs have.

use std::num::NonZeroUsize;

use clap::Args;

use crate::values;

/// Which of an image's platforms is meant.
#[derive(Debug, Clone, Args)]
pub struct PlatformOptions {
    /// The image's architecture (amd64, arm64).
    #[arg(short, long)]
    arch: Option<String>,

    /// The image's operating system.
    #[arg(long)]
    os: Option<String>,

    /// The image's platform, OS/ARCH[/VARIANT]; wins over --os and --arch.
    #[arg(long)]
    platform: Option<String>,
}

impl PlatformOptions {
    /// The platform that the three name together, as `OS/ARCH[/VARIANT]`.
    pub fn platform(self) -> Option<String> {
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

/// How an image is fetched.
#[derive(Debug, Clone, Args)]
pub struct FetchOptions {
    /// How to reach the registry: http, https, or auto (http on loopback and private names).
    #[arg(long, value_name = "SCHEME", value_parser = ["http", "https", "auto"])]
    pub scheme: Option<String>,

    /// Layers fetched at once.
    #[arg(long, value_name = "N", default_value = "3", value_parser = values::downloads)]
    pub max_concurrent_downloads: NonZeroUsize,
}
