//! `container image list`

use clap::Args;
use container_api::{ImageSummary, Images};
use container_client::Client;
use jiff::tz::TimeZone;

use super::filter::ImageFilter;
use crate::{
    failure::Failure,
    filter,
    format::{FormatError, ListFormat},
    output,
    size::size,
    table::{Cell, table},
};

/// Fields for templates.
const FIELDS: &[&str] = &[
    "createdDate",
    "digest",
    "diskSize",
    "machines",
    "name",
    "platforms",
    "reference",
    "sharedSize",
    "tag",
];

/// Hexadecimal digits shown of a digest.
const SHORT_DIGEST: usize = 12;

/// List images, and the machines created from them.
///
/// SIZE is the disk space of the image on this host, including its base images. SHARED is the part
/// of it that other images in the list need as well, and that removing this one would not free.
/// NAME and TAG are <none> for an image that lost its reference to another one while machines still
/// use it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image ls
  container image ls --filter used=false
  container image ls --format '{{ reference }} {{ diskSize | size }}'
  container image rm $(container image ls -q --filter 'name=test-*')")]
pub(crate) struct List {
    /// Output format: table, json, or a Jinja template such as `{{ reference }} {{ digest }}`.
    ///
    /// A template prints one line per reference. Fields are named as in the JSON; an absent one is
    /// empty. The filter `size` formats bytes with a unit.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = format)]
    format: ListFormat,

    /// Condition for the listed images; repeatable.
    ///
    /// The keys are reference or name, machine, platform and used (true, false). `*` matches any
    /// text. Of several conditions with the same key, one must match.
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<ImageFilter>,

    /// Print full digests.
    #[arg(long, visible_alias = "verbose")]
    no_trunc: bool,

    /// Print only references, and the digests of images without one.
    #[arg(short, long)]
    quiet: bool,
}

fn format(word: &str) -> Result<ListFormat, FormatError> {
    ListFormat::parse(word, FIELDS, "{{ reference }} {{ digest }}")
}

impl List {
    /// Prints the images.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let Images { mut images, broken } = client.images().await?;
        for reason in broken {
            output::note(&reason);
        }
        images.retain(|image| filter::matches_all(&self.filter, image));
        if self.quiet {
            let names = images
                .iter()
                .map(|image| format!("{}\n", image_name(image)));
            return output::print(&names.collect::<String>());
        }
        self.format.print(&images, |images, is_coloured| {
            image_table(images, self.no_trunc, &TimeZone::system(), is_coloured)
        })
    }
}

/// Returns the name that other verbs accept for this image.
fn image_name(image: &ImageSummary) -> &str {
    image.reference.as_deref().unwrap_or(&image.digest)
}

fn image_table(
    images: &[ImageSummary],
    full_digests: bool,
    here: &TimeZone,
    is_coloured: bool,
) -> String {
    let headings = [
        "NAME",
        "TAG",
        "DIGEST",
        "CREATED",
        "SIZE",
        "SHARED",
        "PLATFORMS",
        "MACHINES",
    ];
    let none = || "<none>".to_owned();
    let row = |image: &ImageSummary| -> [Cell; 8] {
        let created = image.created_date.map(|created| {
            let created = created.to_zoned_datetime(here.clone());
            created.strftime("%Y-%m-%d %H:%M:%S").to_string()
        });
        let machines: Vec<&str> = image.machines.iter().map(|it| it.as_str()).collect();
        [
            image.name.clone().unwrap_or_else(none).into(),
            image.tag.clone().unwrap_or_else(none).into(),
            digest(&image.digest, full_digests).into(),
            created.unwrap_or_default().into(),
            size(image.disk_size).into(),
            match image.shared_size {
                0 => "".into(),
                shared => size(shared).into(),
            },
            image.platforms.join(", ").into(),
            machines.join(", ").into(),
        ]
    };
    table(headings, images.iter().map(row), is_coloured)
}

fn digest(digest: &str, is_full: bool) -> &str {
    match digest.strip_prefix("sha256:") {
        Some(hex) if !is_full => hex.get(..SHORT_DIGEST).unwrap_or(hex),
        _ => digest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    #[test]
    fn images_as_json() {
        let json = serde_json::to_string_pretty(&samples::images()).unwrap();
        insta::assert_snapshot!("list-json", json);
    }

    #[test]
    fn images_as_table() {
        let table =
            |full_digests| image_table(&samples::images(), full_digests, &TimeZone::UTC, false);
        insta::assert_snapshot!("list-table", table(false));
        assert!(table(true).contains(&samples::images()[0].digest));
        let none = image_table(&[], false, &TimeZone::UTC, false);
        assert_eq!(
            none,
            "NAME  TAG  DIGEST  CREATED  SIZE  SHARED  PLATFORMS  MACHINES\n"
        );
    }

    #[test]
    fn an_image_without_reference_is_named_by_digest() {
        let images = samples::images();
        assert_eq!(image_name(&images[1]), "docker.io/library/alpine:3.22");
        assert_eq!(image_name(&images[2]), images[2].digest);
    }

    #[test]
    fn templates_know_every_field() {
        let image = serde_json::to_value(&samples::images()[0]).unwrap();
        let fields: Vec<&String> = image.as_object().unwrap().keys().collect();
        assert_eq!(fields, FIELDS);
        let error = format("{{ id }}").unwrap_err().to_string();
        assert!(error.contains("sharedSize, tag"), "{error}");
    }
}
