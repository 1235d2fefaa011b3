//! `container build`

mod builder;

use std::path::PathBuf;

use clap::{Args, ValueHint};
use container_api::TagRequest;
use container_client::Client;

use crate::{failure::Failure, output};

use builder::Builder;

/// Build an image that machines can be made from.
///
/// The builder that is installed does it: buildah, podman, or docker with buildx. The image is then
/// taken into the images of `container image ls`, and its digest is printed. What the builder tells
/// goes to standard error. The images that a build begins with are fetched by the builder, with its own
/// settings and logins; where buildah and podman have no logins, those of `container registry login` count.
///
/// A machine needs an init system at /sbin/init, or gets a built-in one.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container build -t dev .
  container build -t dev -f images/dev.Dockerfile --build-arg RELEASE=12 images
  container machine create dev")]
pub struct Build {
    /// The directory that the build may copy from.
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    context: PathBuf,

    /// What to call the image: [REGISTRY/]REPOSITORY[:TAG]. May be given several times.
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<String>,

    /// How to build it; Dockerfile or Containerfile in the context where it is left out, standard input
    /// where it is -.
    #[arg(short, long, value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,

    /// Set a variable of the build, NAME=VALUE.
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    build_args: Vec<String>,

    /// End at this stage.
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Build for this platform, OS/ARCH[/VARIANT].
    #[arg(long)]
    platform: Option<String>,

    /// Build every step anew.
    #[arg(long)]
    no_cache: bool,

    /// Who builds it; the first of these that is installed where it is left out.
    #[arg(long, value_enum)]
    builder: Option<Builder>,
}

impl Build {
    /// Builds the image, takes it over and prints its digest.
    pub async fn carry_out(self, build: &str) -> Result<u8, Failure> {
        let builder = Builder::chosen(self.builder)?;
        // The builder would find out late, with words of its own.
        if !self.context.is_dir() {
            return Err(Failure::new(format!(
                "building an image: there is no directory {}; give the one that the build may copy from",
                self.context.display()
            )));
        }
        let client = Client::connect(build).await?;
        let mut archive = builder.build(&self).await?;
        let errors = archive.stderr.take();
        let bytes = archive
            .stdout
            .take()
            .ok_or("the builder's output is missing")?;
        let loaded = client.load_images(bytes, &mut |_| {}).await;
        let status = archive.wait().await?;
        if !status.success() {
            return Err(builder.failed(errors).await);
        }
        let loaded = loaded?;
        let [image] = loaded.images.as_slice() else {
            return Err(Failure::new(format!(
                "{} gave {} images where one was built",
                builder.name(),
                loaded.images.len()
            )));
        };
        for tag in &self.tags {
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
