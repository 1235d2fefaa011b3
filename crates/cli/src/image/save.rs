//! `container image save`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use container_api::{ArchiveFormat, Progress, SaveRequest};
use container_client::Client;

use crate::{
    archive_file::NewArchive,
    failure::Failure,
    options::{PlatformOptions, ProgressOptions},
    values::ImageName,
};

/// Save images to a tar archive, which podman, buildah, skopeo and docker can read.
///
/// An image given by digest is saved with all its references. For a multi-platform image, an OCI
/// archive contains all platforms that are stored, and a docker archive contains one.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image save registry.example/team/dev:2 -o dev.tar
  container image save dev:2 --format docker | docker load
  container image save dev:1 dev:2 | zstd > both.tar.zst")]
pub(crate) struct Save {
    /// Images: references, digests, or prefixes of digests.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<ImageName>,

    /// Archive; default: standard output (also `-`).
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "-",
        hide_default_value = true
    )]
    output: PathBuf,

    /// Format of the archive.
    #[arg(long, value_enum, default_value_t)]
    format: FormatOption,

    #[command(flatten)]
    platform: PlatformOptions,

    #[command(flatten)]
    progress: ProgressOptions,
}

/// Format of an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum FormatOption {
    /// An OCI image layout.
    #[default]
    #[value(alias = "oci-archive")]
    Oci,
    /// The format of `docker save`.
    #[value(alias = "docker-archive")]
    Docker,
}

impl Save {
    /// Writes the archive. A regular file appears only once it is complete.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = SaveRequest {
            images: ImageName::into_strings(self.images),
            format: match self.format {
                FormatOption::Oci => ArchiveFormat::Oci,
                FormatOption::Docker => ArchiveFormat::Docker,
            },
            platform: self.platform.platform(),
        };
        let archive = NewArchive {
            path: &self.output,
            mode: 0o666,
        };
        let write =
            async |to, show: &mut dyn FnMut(Progress)| client.save_images(&request, to, show).await;
        archive.write(self.progress.mode, write).await
    }
}
