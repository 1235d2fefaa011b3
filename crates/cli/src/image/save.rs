//! `container image save`

use std::{
    fs,
    io::{self, IsTerminal},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use container_api::{ArchiveFormat, SaveRequest};
use container_client::Client;
use tokio::fs::File;

use crate::{
    failure::Failure,
    image::options::PlatformOptions,
    progress::{self, ProgressMode},
    values::{self, ImageName},
};

/// Put images into a tar archive, which podman, buildah, skopeo and docker can read.
///
/// An image that is given by its digest keeps all its names. Of an image for several platforms those
/// that are here go into an OCI archive, and one goes into docker's.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image save registry.example/team/dev:2 -o dev.tar
  container image save dev:2 --format docker | docker load
  container image save dev:1 dev:2 | zstd > both.tar.zst")]
pub struct Save {
    /// The images: references, digests, or beginnings of digests.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<ImageName>,

    /// The archive; `-`, or nothing, for standard output.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "-",
        hide_default_value = true
    )]
    output: PathBuf,

    /// What the archive looks like.
    #[arg(long, value_enum, default_value_t)]
    format: Look,

    #[command(flatten)]
    platform: PlatformOptions,

    /// How progress is shown.
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,
}

/// What an archive looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Look {
    /// An OCI image layout.
    #[default]
    #[value(alias = "oci-archive")]
    Oci,
    /// As `docker save` writes it.
    #[value(alias = "docker-archive")]
    Docker,
}

impl Save {
    /// Writes the archive. A file is there when all of it is.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let request = SaveRequest {
            images: values::words(self.images),
            format: match self.format {
                Look::Oci => ArchiveFormat::Oci,
                Look::Docker => ArchiveFormat::Docker,
            },
            platform: self.platform.platform(),
        };
        let given_up = "Given up: there is no archive.";
        let path = &self.output;
        if path == Path::new("-") {
            if io::stdout().is_terminal() {
                return Err(Failure::new(
                    "standard output is a terminal, and an archive is no text: name a file with --output, or send it through a pipe",
                ));
            }
            return progress::shown(self.progress, given_up, async |show| {
                client
                    .save_images(&request, tokio::io::stdout(), show)
                    .await
            })
            .await;
        }
        let failed =
            |error: io::Error| Failure::new(format!("writing {}: {error}", path.display()));
        if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
            // A device or a pipe cannot be replaced.
            let file = File::options()
                .write(true)
                .open(path)
                .await
                .map_err(failed)?;
            return progress::shown(self.progress, given_up, async |show| {
                client.save_images(&request, file, show).await
            })
            .await;
        }
        let new = beside(path).map_err(failed)?;
        let file = File::from_std(new.as_file().try_clone().map_err(failed)?);
        progress::shown(self.progress, given_up, async |show| {
            client.save_images(&request, file, show).await
        })
        .await?;
        new.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// A file that may take this one's place.
fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    tempfile::Builder::new()
        .prefix(".container-save-")
        // The process's mask is taken off.
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(directory)
}
