//! `container image load`

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use container_client::Client;
use container_copy::{RootName, pack};
use tokio::fs::File;

use crate::{
    archive_file::{self, ArchiveSource},
    failure::Failure,
    options::ProgressOptions,
    output, progress,
};

/// Load images from an archive: an OCI image layout, or one written by docker or podman.
///
/// The archive may be compressed with gzip, bzip2, xz or zstd, and contain several images. Their
/// references are those in the archive, and replace existing ones. If any part of the archive is
/// invalid, nothing is loaded.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image load -i images.tar
  docker save local/dev | container image load
  container image load -i ./layout")]
pub(crate) struct Load {
    /// Archive, or directory of an OCI image layout; default: standard input (also `-`).
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "-",
        hide_default_value = true
    )]
    input: PathBuf,

    #[command(flatten)]
    progress: ProgressOptions,
}

/// Files that list the images: of an OCI image layout, and of `docker save`.
const INDEX_FILES: [&str; 2] = ["index.json", "manifest.json"];

impl Load {
    /// Loads the images and prints their references.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let archive = self.archive().await?;
        let cancelled = "Cancelled; nothing was loaded.";
        let loaded = progress::show_while(self.progress.mode, cancelled, async |show| {
            client.load_images(archive, show).await
        });
        for image in loaded.await?.images {
            if image.references.is_empty() {
                output::note(&format!(
                    "Image {0} has no reference in the archive (add one with: container image tag {0} REFERENCE)",
                    image.digest
                ));
                output::line(image.digest)?;
            }
            for reference in image.references {
                output::line(reference)?;
            }
        }
        Ok(())
    }

    async fn archive(&self) -> Result<ArchiveSource, Failure> {
        if !self.input.is_dir() {
            return archive_file::open(&self.input).await;
        }
        let is_layout = |directory: &Path| {
            let mut files = INDEX_FILES.iter();
            files.any(|file| directory.join(file).exists())
        };
        if !is_layout(&self.input) {
            return Err(Failure::new(format!(
                "{} is not an OCI image layout: index.json not found",
                self.input.display()
            )));
        }
        pack_directory(self.input.clone())
    }
}

/// Returns a stream of a directory's contents as an archive, packed by a thread.
fn pack_directory(directory: PathBuf) -> Result<ArchiveSource, Failure> {
    let (reader, writer) = io::pipe().map_err(Failure::cannot("create a pipe"))?;
    std::thread::spawn(move || {
        let note = &mut |note: String| output::note(&note);
        // The service refuses the truncated archive. This note says why it is truncated.
        if let Err(error) = pack(&directory, RootName::Dot, writer, note)
            && !error.is_broken_pipe()
        {
            output::note(&error.to_string());
        }
    });
    Ok(Box::new(File::from_std(fs::File::from(
        std::os::fd::OwnedFd::from(reader),
    ))))
}
