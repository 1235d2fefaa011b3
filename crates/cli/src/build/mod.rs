//! `container build`

mod builder;
mod options;

use clap::Args;
use container_api::TagRequest;
use container_client::Client;

use crate::{failure::Failure, output};

use builder::Builder;
use options::BuildOptions;

/// Build an image for machines.
///
/// The image is built by buildah, podman, or docker with buildx, whichever is installed, and then
/// loaded: `container image ls` lists it. Its digest is printed; the output of the builder goes to
/// standard error. The builder pulls the images in FROM with its own settings and credentials. If
/// buildah or podman have no credentials, those of `container registry login` are used.
///
/// A machine boots the init system at /sbin/init of its image, or a built-in one.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container build -t dev .
  container build -t dev -f images/dev.Dockerfile --build-arg RELEASE=12 images
  container machine create dev")]
pub(crate) struct Build {
    #[command(flatten)]
    options: BuildOptions,

    /// Builder; default: the first of these that is installed.
    #[arg(long, value_enum)]
    builder: Option<Builder>,
}

impl Build {
    /// Builds the image, loads it and prints its digest.
    pub(crate) async fn run(self, build: &str) -> Result<u8, Failure> {
        let builder = Builder::find(self.builder)?;
        // Checked here, because the builders report it late and differently.
        if !self.options.context.is_dir() {
            return Err(Failure::new(format!(
                "cannot build the image: context directory {} not found",
                self.options.context.display()
            )));
        }
        let client = Client::connect(build).await?;
        let mut archive = builder.build(&self.options).await?;
        let errors = archive.stderr.take();
        let bytes = archive
            .stdout
            .take()
            .ok_or_else(|| Failure::new("cannot read the builder's output"))?;
        let loaded = client.load_images(bytes, &mut |_| {}).await;
        let status = archive
            .wait()
            .await
            .map_err(Failure::cannot(format!("wait for {}", builder.name())))?;
        if !status.success() {
            return Err(builder.export_failure(errors).await);
        }
        let loaded = loaded?;
        let [image] = loaded.images.as_slice() else {
            return Err(Failure::new(format!(
                "cannot load the image: {} exported {} images, expected 1",
                builder.name(),
                loaded.images.len()
            )));
        };
        for tag in &self.options.tags {
            let request = TagRequest {
                source: image.digest.clone(),
                target: tag.clone(),
            };
            client.tag_image(&request).await?;
        }
        output::line(&image.digest)?;
        Ok(0)
    }
}
