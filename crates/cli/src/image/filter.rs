//! `container image list --filter`

use std::str::FromStr;

use container_api::ImageSummary;
use wildmatch::WildMatch;

use crate::{
    filter::{Filter, image_names},
    values::InvalidValue,
};

/// One `KEY=VALUE` of `list --filter`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ImageFilter {
    /// Pattern for one of the image's names; `*` matches any text.
    Reference(WildMatch),
    /// Pattern for a machine created from the image.
    Machine(WildMatch),
    /// Pattern for a platform that is stored.
    Platform(WildMatch),
    /// Whether any machine was created from the image.
    Used(bool),
}

impl FromStr for ImageFilter {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<ImageFilter, InvalidValue> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(InvalidValue::new("not of the form KEY=VALUE"));
        };
        match key {
            "reference" | "name" => Ok(ImageFilter::Reference(WildMatch::new(value))),
            "machine" => Ok(ImageFilter::Machine(WildMatch::new(value))),
            "platform" => Ok(ImageFilter::Platform(WildMatch::new(value))),
            "used" => match value.parse() {
                Ok(is_used) => Ok(ImageFilter::Used(is_used)),
                Err(_) => Err(InvalidValue::new(format!(
                    "{value:?} is neither true nor false"
                ))),
            },
            _ => Err(InvalidValue::new(format!(
                "key {key:?} not found (available: reference, name, machine, platform, used)"
            ))),
        }
    }
}

impl Filter<ImageSummary> for ImageFilter {
    fn matches(&self, image: &ImageSummary) -> bool {
        match self {
            ImageFilter::Reference(pattern) => {
                let mut names = image.reference.iter().flat_map(|full| image_names(full));
                names.any(|name| pattern.matches(name))
            }
            ImageFilter::Machine(pattern) => {
                let mut machines = image.machines.iter();
                machines.any(|machine| pattern.matches(machine.as_str()))
            }
            ImageFilter::Platform(pattern) => {
                let mut platforms = image.platforms.iter();
                platforms.any(|platform| pattern.matches(platform))
            }
            ImageFilter::Used(is_used) => *is_used != image.machines.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter::matches_all, tests::samples};

    fn matching(words: &[&str]) -> Vec<String> {
        let filters: Vec<ImageFilter> = words.iter().map(|word| word.parse().unwrap()).collect();
        let images = samples::images().into_iter();
        let matching = images.filter(|image| matches_all(&filters, image));
        matching
            .map(|image| image.name.unwrap_or_default())
            .collect()
    }

    #[test]
    fn filters_select_images() {
        assert_eq!(
            matching(&[]),
            ["127.0.0.1:5000/machines/debian", "alpine", ""]
        );
        assert_eq!(matching(&["reference=alpine:3.22"]), ["alpine"]);
        assert_eq!(matching(&["name=al*"]), ["alpine"]);
        assert_eq!(matching(&["reference=debian", "name=alpine"]).len(), 2);
        assert_eq!(matching(&["machine=web-*"]), [""]);
        assert_eq!(matching(&["used=false"]), ["alpine"]);
        assert_eq!(
            matching(&["platform=linux/arm64"]),
            ["127.0.0.1:5000/machines/debian"]
        );
    }

    #[test]
    fn errors_list_the_valid_values() {
        let error = |word: &str| word.parse::<ImageFilter>().unwrap_err().to_string();
        assert!(error("nmae=x").contains("machine, platform, used"));
        assert!(error("used=no").contains("true nor false"));
        assert!(error("alpine").contains("KEY=VALUE"));
    }
}
