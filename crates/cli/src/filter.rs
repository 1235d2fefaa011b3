//! Which machines are listed, and how conditions go together.

use std::str::FromStr;

use container_api::{Snapshot, Status};
use wildmatch::WildMatch;

/// One `KEY=VALUE` of `list --filter`.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// The id; `*` stands for anything.
    Id(WildMatch),
    /// The image's reference, or the end of it with or without the tag; `*` stands for anything.
    Image(WildMatch),
    /// The state.
    Status(Status),
    /// Whether it is the default machine.
    Default(bool),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(word: &str) -> Result<Filter, String> {
        let Some((key, value)) = word.split_once('=') else {
            return Err("it is not of the form KEY=VALUE".to_owned());
        };
        match key {
            "id" | "name" => Ok(Filter::Id(WildMatch::new(value))),
            "image" => Ok(Filter::Image(WildMatch::new(value))),
            "status" => match value {
                "running" => Ok(Filter::Status(Status::Running)),
                "starting" => Ok(Filter::Status(Status::Starting)),
                "stopped" => Ok(Filter::Status(Status::Stopped)),
                _ => Err(format!(
                    "{value:?} is no status: there are running, starting and stopped"
                )),
            },
            "default" => match value.parse() {
                Ok(is_default) => Ok(Filter::Default(is_default)),
                Err(_) => Err(format!("{value:?} is neither true nor false")),
            },
            _ => Err(format!(
                "there is no key {key:?}: there are id, name, image, status and default"
            )),
        }
    }
}

/// One of several conditions on things of a kind.
pub trait Condition<T> {
    /// Whether it holds of this one.
    fn means(&self, of: &T) -> bool;
}

/// Whether this one is meant by all conditions. Of several with one key one is enough.
pub fn all_mean<T>(filters: &[impl Condition<T>], of: &T) -> bool {
    filters.iter().all(|filter| {
        let key = std::mem::discriminant(filter);
        let mut same_key = filters
            .iter()
            .filter(|other| std::mem::discriminant(*other) == key);
        same_key.any(|filter| filter.means(of))
    })
}

impl Condition<Snapshot> for Filter {
    fn means(&self, machine: &Snapshot) -> bool {
        match self {
            Filter::Id(pattern) => pattern.matches(machine.id.as_str()),
            Filter::Image(pattern) => {
                let mut names = names(&machine.image.reference);
                names.any(|name| pattern.matches(name))
            }
            Filter::Status(status) => *status == machine.status,
            Filter::Default(is_default) => *is_default == machine.default,
        }
    }
}

/// What people call the image `registry/path/name:tag`: that, `path/name:tag`, `name:tag`, and
/// the same without the tag or digest.
pub fn names(reference: &str) -> impl Iterator<Item = &str> {
    let starts = reference.match_indices('/').map(|(at, _)| at + 1);
    std::iter::once(0).chain(starts).flat_map(move |start| {
        let name = &reference[start..];
        let last = name.rfind('/').map_or(0, |at| at + 1);
        let end = name[last..]
            .find([':', '@'])
            .map_or(name.len(), |at| last + at);
        [name, &name[..end]]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn meant(words: &[&str]) -> Vec<String> {
        let filters: Vec<Filter> = words.iter().map(|word| word.parse().unwrap()).collect();
        let machines = samples::machines().into_iter();
        let meant = machines.filter(|machine| all_mean(&filters, machine));
        meant.map(|machine| machine.id.to_string()).collect()
    }

    #[test]
    fn filters_choose() {
        assert_eq!(meant(&[]), ["dev", "web-1", "web-2"]);
        assert_eq!(meant(&["id=web-*"]), ["web-1", "web-2"]);
        assert_eq!(meant(&["name=dev"]), ["dev"]);
        assert_eq!(meant(&["name=de"]), [""; 0]);
        assert_eq!(meant(&["id=dev", "name=web-2"]), ["dev", "web-2"]);
        assert_eq!(meant(&["status=stopped"]), ["web-1"]);
        assert_eq!(meant(&["status=running", "id=web-*"]), [""; 0]);
        assert_eq!(meant(&["default=true"]), ["dev"]);
        assert_eq!(meant(&["default=false"]), ["web-1", "web-2"]);
    }

    #[test]
    fn an_image_is_meant_by_any_of_its_names() {
        for word in [
            "debian",
            "debian:12",
            "machines/debian",
            "127.0.0.1:5000/*",
            "*:12",
        ] {
            assert_eq!(meant(&[&format!("image={word}")]), ["dev"], "{word}");
        }
        assert_eq!(meant(&["image=debian:1"]), [""; 0]);
        assert_eq!(meant(&["image=bian"]), [""; 0]);
        assert_eq!(meant(&["image=alpine"]), ["web-1", "web-2"]);
    }

    #[test]
    fn mistakes_name_what_there_is() {
        let error = |word: &str| word.parse::<Filter>().unwrap_err();
        assert!(error("nmae=x").contains("id, name, image, status and default"));
        assert!(error("status=up").contains("running, starting and stopped"));
        assert!(error("default=yes").contains("true nor false"));
        assert!(error("dev").contains("KEY=VALUE"));
    }
}
