//! `container image inspect`

use clap::Args;
use container_api::InspectRequest;
use container_client::Client;

use crate::{
    failure::Failure,
    format::WholeFormat,
    image::options::PlatformOptions,
    values::{self, ImageName},
};

/// What a template may name.
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

/// Show all that is known of images, as JSON.
///
/// Of an image for several platforms, configuration, layers and history are those of this
/// computer's platform, or of the one that is named. Bases are the disks that machines' disks lie
/// on.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image inspect alpine:3
  container image inspect 1a2b3c4d5e6f --format '{{ references[0] }}'
  container image inspect alpine:3 --format '{{ config.entrypoint | tojson }}'")]
pub struct Inspect {
    /// The images: references, digests, or beginnings of digests.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<ImageName>,

    /// Print json, or what this Jinja template makes of each: `{{ platform }} {{ config.user }}`.
    ///
    /// Fields are named as in the JSON; one that is absent is empty. The filter `size` writes bytes
    /// as people read them.
    #[arg(long, value_name = "FORMAT", default_value = "json", hide_default_value = true, value_parser = format)]
    format: WholeFormat,

    #[command(flatten)]
    platform: PlatformOptions,
}

fn format(text: &str) -> Result<WholeFormat, String> {
    WholeFormat::parse(text, FIELDS)
}

impl Inspect {
    /// Prints an array, or what the template makes of each.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let request = InspectRequest {
            images: values::words(self.images),
            platform: self.platform.platform(),
        };
        self.format.print(&client.inspect_images(&request).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn an_image_is_told_whole() {
        let told = serde_json::to_string_pretty(&[samples::image_details()]).unwrap();
        insta::assert_snapshot!("inspect", told);
    }

    #[test]
    fn a_template_may_name_every_field_and_no_other() {
        let mut whole = samples::image_details();
        // What they are called is their maker's matter.
        whole.config.labels = [("*".to_owned(), "any".to_owned())].into();
        let whole = serde_json::to_value(whole).unwrap();
        assert_eq!(samples::fields("", &whole), FIELDS);
        assert!(format("{{ id }}").is_err());
        assert!(format("{{ layers[0].digest }} {{ config.labels.maintainer }}").is_ok());
    }
}
