//! `container image load`

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use clap::Args;
use container_archive::{Root, pack};
use container_client::Client;
use tokio::{fs::File, io::AsyncRead};

use crate::{
    failure::Failure,
    output,
    progress::{self, ProgressMode},
};

/// Take images out of an archive: an OCI image layout, or what docker or podman saves.
///
/// The archive may be packed with gzip, bzip2, xz or zstd, and hold several images. They get the names that they
/// have in it, whatever those meant before. If any of it is not as it should be, nothing is loaded.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image load -i images.tar
  docker save local/dev | container image load
  container image load -i ./layout")]
pub struct Load {
    /// The archive, or the directory of a layout; `-`, or nothing, for standard input.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "-",
        hide_default_value = true
    )]
    input: PathBuf,

    /// How progress is shown.
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,
}

/// What tells of the images: of a layout, or of what `docker save` writes.
const LISTS: [&str; 2] = ["index.json", "manifest.json"];

type Archive = Box<dyn AsyncRead + Send + Unpin>;

impl Load {
    /// Loads the images and prints their names.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let archive = self.archive().await?;
        let given_up = "Given up: nothing was loaded.";
        let loaded = progress::shown(self.progress, given_up, async |show| {
            client.load_images(archive, show).await
        });
        for image in loaded.await?.images {
            if image.references.is_empty() {
                output::note(&format!(
                    "the archive has no name for this image: give it one with `container image tag {} NAME`",
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

    async fn archive(&self) -> Result<Archive, Failure> {
        if self.input == Path::new("-") {
            return match io::stdin().is_terminal() {
                true => Err(Failure::new(
                    "standard input is a terminal: name an archive with --input, or send one through a pipe",
                )),
                false => Ok(Box::new(tokio::io::stdin())),
            };
        }
        let failed =
            |error: io::Error| Failure::new(format!("opening {}: {error}", self.input.display()));
        match fs::metadata(&self.input).map_err(failed)?.is_dir() {
            true if !LISTS.iter().any(|list| self.input.join(list).exists()) => {
                Err(Failure::new(format!(
                    "{} is a directory without an index.json, so it is no OCI image layout",
                    self.input.display()
                )))
            }
            true => packed(self.input.clone()),
            false => Ok(Box::new(File::open(&self.input).await.map_err(failed)?)),
        }
    }
}

/// A directory as the archive of it.
fn packed(directory: PathBuf) -> Result<Archive, Failure> {
    let (reader, writer) = io::pipe()?;
    std::thread::spawn(move || {
        let note = &mut |note: String| output::note(&note);
        // Whoever reads finds an archive that ends too soon, and says so.
        if let Err(error) = pack(&directory, Root::Itself, writer, note)
            && !error.is_broken_pipe()
        {
            output::note(&error.to_string());
        }
    });
    Ok(Box::new(File::from_std(fs::File::from(
        std::os::fd::OwnedFd::from(reader),
    ))))
}
