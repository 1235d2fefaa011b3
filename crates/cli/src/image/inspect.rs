//! `container image inspect`

use clap::Args;
use container_api::InspectRequest;
use container_client::Client;

use crate::{
    failure::Failure,
    format::{FormatError, InspectFormat},
    options::PlatformOptions,
    values::ImageName,
};

/// Fields for templates.
const FIELDS: &[&str] = &[
    "bases",
    "config.command",
    "config.entrypoint",
    "config.environment",
    "config.labels.*",
    "config.stopSignal",
    "config.user",
    "config.workingDirectory",
    "createdDate",
    "descriptor.digest",
    "descriptor.mediaType",
    "descriptor.size",
    "diskSize",
    "history",
    "layers",
    "machines",
    "manifest.digest",
    "manifest.mediaType",
    "manifest.size",
    "platform",
    "platforms",
    "references",
    "sharedSize",
];

/// Show all details of images, as JSON.
///
/// For a multi-platform image, configuration, layers and history are those of this host's platform,
/// or of the given one. Bases are the base images (ext4 files) that machines' disks are overlays
/// of.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image inspect alpine:3
  container image inspect 1a2b3c4d5e6f --format '{{ references[0] }}'
  container image inspect alpine:3 --format '{{ config.entrypoint | tojson }}'")]
pub(crate) struct Inspect {
    /// Images: references, digests, or prefixes of digests.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<ImageName>,

    /// Output format: json, or a Jinja template such as `{{ platform }} {{ config.user }}`.
    ///
    /// A template prints one line per image. Fields are named as in the JSON; an absent one is
    /// empty. The filter `size` formats bytes with a unit.
    #[arg(long, value_name = "FORMAT", default_value = "json", hide_default_value = true, value_parser = format)]
    format: InspectFormat,

    #[command(flatten)]
    platform: PlatformOptions,
}

fn format(text: &str) -> Result<InspectFormat, FormatError> {
    InspectFormat::parse(text, FIELDS)
}

impl Inspect {
    /// Prints an array, or one line per image.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = InspectRequest {
            images: ImageName::into_strings(self.images),
            platform: self.platform.platform(),
        };
        self.format.print(&client.inspect_images(&request).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    #[test]
    fn image_details_as_json() {
        let json = serde_json::to_string_pretty(&[samples::image_details()]).unwrap();
        insta::assert_snapshot!("inspect", json);
    }

    #[test]
    fn templates_know_every_field() {
        let mut whole = samples::image_details();
        // Any label may be named.
        whole.config.labels = [("*".to_owned(), "any".to_owned())].into();
        let whole = serde_json::to_value(whole).unwrap();
        assert_eq!(samples::fields("", &whole), FIELDS);
        assert!(format("{{ id }}").is_err());
        assert!(format("{{ layers[0].digest }} {{ config.labels.maintainer }}").is_ok());
    }
}
