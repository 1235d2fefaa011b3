//! Which images are listed.

use std::str::FromStr;

use container_api::ImageSummary;
use wildmatch::WildMatch;

use crate::filter::{Condition, names};

/// One `KEY=VALUE` of `list --filter`.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageFilter {
    /// The reference, or the end of it with or without the tag; `*` stands for anything.
    Reference(WildMatch),
    /// A machine that was made from it; `*` stands for anything.
    Machine(WildMatch),
    /// A platform that is here; `*` stands for anything.
    Platform(WildMatch),
    /// Whether any machine was made from it.
    Used(bool),
}

impl FromStr for ImageFilter {
    type Err = String;

    fn from_str(word: &str) -> Result<ImageFilter, String> {
        let Some((key, value)) = word.split_once('=') else {
            return Err("it is not of the form KEY=VALUE".to_owned());
        };
        match key {
            "reference" | "name" => Ok(ImageFilter::Reference(WildMatch::new(value))),
            "machine" => Ok(ImageFilter::Machine(WildMatch::new(value))),
            "platform" => Ok(ImageFilter::Platform(WildMatch::new(value))),
            "used" => match value.parse() {
                Ok(is_used) => Ok(ImageFilter::Used(is_used)),
                Err(_) => Err(format!("{value:?} is neither true nor false")),
            },
            _ => Err(format!(
                "there is no key {key:?}: there are reference, name, machine, platform and used"
            )),
        }
    }
}

impl Condition<ImageSummary> for ImageFilter {
    fn means(&self, image: &ImageSummary) -> bool {
        match self {
            ImageFilter::Reference(pattern) => {
                let mut names = image.reference.iter().flat_map(|full| names(full));
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
    use crate::{filter::all_mean, samples};

    fn meant(words: &[&str]) -> Vec<String> {
        let filters: Vec<ImageFilter> = words.iter().map(|word| word.parse().unwrap()).collect();
        let images = samples::images().into_iter();
        let meant = images.filter(|image| all_mean(&filters, image));
        meant.map(|image| image.name.unwrap_or_default()).collect()
    }

    #[test]
    fn filters_choose() {
        assert_eq!(meant(&[]), ["127.0.0.1:5000/machines/debian", "alpine", ""]);
        assert_eq!(meant(&["reference=alpine:3.22"]), ["alpine"]);
        assert_eq!(meant(&["name=al*"]), ["alpine"]);
        assert_eq!(meant(&["reference=debian", "name=alpine"]).len(), 2);
        assert_eq!(meant(&["machine=web-*"]), [""]);
        assert_eq!(meant(&["used=false"]), ["alpine"]);
        assert_eq!(
            meant(&["platform=linux/arm64"]),
            ["127.0.0.1:5000/machines/debian"]
        );
    }

    #[test]
    fn mistakes_name_what_there_is() {
        let error = |word: &str| word.parse::<ImageFilter>().unwrap_err();
        assert!(error("nmae=x").contains("machine, platform and used"));
        assert!(error("used=no").contains("true nor false"));
        assert!(error("alpine").contains("KEY=VALUE"));
    }
}
