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
    options::{PlatformOptions, ProgressOptions},
    progress,
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
        let cancelled = "Cancelled; no archive was written.";
        let path = &self.output;
        if path == Path::new("-") {
            if io::stdout().is_terminal() {
                return Err(Failure::new(
                    "cannot write an archive to a terminal (name a file with --output, or use a pipe)",
                ));
            }
            return progress::show_while(self.progress.mode, cancelled, async |show| {
                client
                    .save_images(&request, tokio::io::stdout(), show)
                    .await
            })
            .await;
        }
        let cannot_write = || Failure::cannot(format!("write {}", path.display()));
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            // A device or a named pipe is written to, not replaced.
            let file = File::options()
                .write(true)
                .open(path)
                .await
                .map_err(cannot_write())?;
            return progress::show_while(self.progress.mode, cancelled, async |show| {
                client.save_images(&request, file, show).await
            })
            .await;
        }
        let new = temporary_file(path).map_err(cannot_write())?;
        let file = File::from_std(new.as_file().try_clone().map_err(cannot_write())?);
        progress::show_while(self.progress.mode, cancelled, async |show| {
            client.save_images(&request, file, show).await
        })
        .await?;
        new.persist(path)
            .map_err(|error| cannot_write()(error.error))?;
        Ok(())
    }
}

/// Creates a temporary file in the same directory as `path`, so that it can be renamed to it.
fn temporary_file(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    tempfile::Builder::new()
        .prefix(".container-save-")
        // Reduced by the umask, like any new file. The default of tempfile is 0600.
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(directory)
}
