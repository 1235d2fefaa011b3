//! `container image list`

use clap::Args;
use container_api::{ImageSummary, Images};
use container_client::Client;
use jiff::tz::TimeZone;

use super::ImageFilter;
use crate::{
    failure::Failure,
    filter,
    format::Format,
    output,
    size::size,
    table::{Cell, table},
};

/// What a template may name.
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

/// Hexadecimal digits of a digest that are shown.
const SHORT: usize = 12;

/// List images, and which machines were made from them.
///
/// SIZE is what an image takes on this computer, with the disks that were made from it; SHARED is how
/// much of that other references in the list need as well, so that it would stay without this one.
/// NAME and TAG are <none> where they mean another image now and machines still use this one.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image ls
  container image ls --filter used=false
  container image ls --format '{{ reference }} {{ diskSize | size }}'
  container image rm $(container image ls -q --filter 'name=test-*')")]
pub struct List {
    /// How to print them: table, json, or a Jinja template such as `{{ reference }} {{ digest }}`.
    ///
    /// A template makes one line of each reference. Fields are named as in the JSON; one that is
    /// absent is empty. The filter `size` writes bytes as people read them.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = format)]
    format: Format,

    /// Only images of which this holds; may be given more than once.
    ///
    /// The keys are reference or name, machine, platform and used (true, false). `*` stands for
    /// anything. Of several with one key, one must hold.
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<ImageFilter>,

    /// Show digests in full.
    #[arg(long, visible_alias = "verbose")]
    no_trunc: bool,

    /// Print references only, and digests of images that have none.
    #[arg(short, long)]
    quiet: bool,
}

fn format(word: &str) -> Result<Format, String> {
    Format::parse(word, FIELDS, "{{ reference }} {{ digest }}")
}

impl List {
    /// Prints the images.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let Images { mut images, broken } = client.images().await?;
        for reason in broken {
            output::note(&reason);
        }
        images.retain(|image| filter::all_mean(&self.filter, image));
        if self.quiet {
            let names = images.iter().map(|image| format!("{}\n", called(image)));
            return output::print(&names.collect::<String>());
        }
        self.format.print(&images, |images, is_coloured| {
            listed(images, self.no_trunc, &TimeZone::system(), is_coloured)
        })
    }
}

/// What the other verbs take for this image.
fn called(image: &ImageSummary) -> &str {
    image.reference.as_deref().unwrap_or(&image.digest)
}

fn listed(images: &[ImageSummary], whole: bool, here: &TimeZone, is_coloured: bool) -> String {
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
            let created = created.to_zoned(here.clone());
            created.strftime("%Y-%m-%d %H:%M:%S").to_string()
        });
        let machines: Vec<&str> = image.machines.iter().map(|it| it.as_str()).collect();
        [
            image.name.clone().unwrap_or_else(none).into(),
            image.tag.clone().unwrap_or_else(none).into(),
            digest(&image.digest, whole).into(),
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

fn digest(digest: &str, whole: bool) -> &str {
    match digest.strip_prefix("sha256:") {
        Some(hex) if !whole => hex.get(..SHORT).unwrap_or(hex),
        _ => digest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn json_stays_as_it_is() {
        let json = serde_json::to_string_pretty(&samples::images()).unwrap();
        insta::assert_snapshot!("list-json", json);
    }

    #[test]
    fn the_table_stays_as_it_is() {
        let table = |whole| listed(&samples::images(), whole, &TimeZone::UTC, false);
        insta::assert_snapshot!("list-table", table(false));
        assert!(table(true).contains(&samples::images()[0].digest));
        let none = listed(&[], false, &TimeZone::UTC, false);
        assert_eq!(
            none,
            "NAME  TAG  DIGEST  CREATED  SIZE  SHARED  PLATFORMS  MACHINES\n"
        );
    }

    #[test]
    fn an_image_is_called_what_other_verbs_take() {
        let images = samples::images();
        assert_eq!(called(&images[1]), "docker.io/library/alpine:3.22");
        assert_eq!(called(&images[2]), images[2].digest);
    }

    #[test]
    fn a_template_may_name_every_field_and_no_other() {
        let whole = serde_json::to_value(&samples::images()[0]).unwrap();
        let fields: Vec<&String> = whole.as_object().unwrap().keys().collect();
        assert_eq!(fields, FIELDS);
        let error = format("{{ id }}").unwrap_err();
        assert!(error.contains("sharedSize, tag"), "{error}");
    }
}
