//! `[machine] time-zone`: the time zone of new machines.

use std::{
    fs,
    path::{Component, Path},
};

use container_protocol::GuestTimeZone;
use serde::{Deserialize, Deserializer, de::Error};

/// The host's time zone.
const LOCAL_TIME: &str = "/etc/localtime";

/// The host's time zone database.
const ZONES: &str = "/usr/share/zoneinfo";

/// The time zone of new machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum TimeZoneSetting {
    /// The host's, unless the image sets one.
    #[default]
    Host,
    /// The image's.
    Image,
    /// This one of the time zone database, `Area/City`.
    Named(String),
}

impl<'de> Deserialize<'de> for TimeZoneSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "host" => Ok(TimeZoneSetting::Host),
            "image" => Ok(TimeZoneSetting::Image),
            name if is_zone_name(name) => Ok(TimeZoneSetting::Named(text)),
            _ => Err(D::Error::custom(format!(
                "invalid time zone {text:?}: use \"host\", \"image\" or a name like \
                 \"Europe/Berlin\""
            ))),
        }
    }
}

/// Returns whether a text can be a name in the time zone database. It becomes part of a path.
fn is_zone_name(text: &str) -> bool {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "+-_/".contains(letter);
    !text.is_empty() && !text.starts_with('/') && text.chars().all(is_allowed)
}

impl TimeZoneSetting {
    /// Returns the time zone for a machine; nothing to keep that of the image.
    pub(crate) fn resolve(&self) -> Option<GuestTimeZone> {
        match self {
            TimeZoneSetting::Image => None,
            TimeZoneSetting::Named(name) => Some(GuestTimeZone {
                rules: read_rules(&Path::new(ZONES).join(name)),
                name: Some(name.clone()),
                replaces_image: true,
            }),
            TimeZoneSetting::Host => {
                let zone = GuestTimeZone {
                    name: host_zone(),
                    rules: read_rules(Path::new(LOCAL_TIME)),
                    replaces_image: false,
                };
                // A host without either is in UTC.
                (zone.name.is_some() || zone.rules.is_some()).then_some(zone)
            }
        }
    }
}

/// Returns the rules of a time zone, if the file has some.
fn read_rules(file: &Path) -> Option<Vec<u8>> {
    let rules = fs::read(file).ok()?;
    rules.starts_with(b"TZif").then_some(rules)
}

/// Returns the name of the host's time zone, if it can be known.
fn host_zone() -> Option<String> {
    let target = fs::canonicalize(LOCAL_TIME).ok();
    let link = fs::read_link(LOCAL_TIME).ok();
    // The link names what the user chose; its target may be an alias.
    let linked = link.as_deref().and_then(zone_of_path);
    linked
        .or_else(|| target.as_deref().and_then(zone_of_path))
        .or_else(|| {
            let name = fs::read_to_string("/etc/timezone").ok()?;
            let name = name.trim();
            is_zone_name(name).then(|| name.to_owned())
        })
}

/// Returns the name of the time zone that is stored at `path`.
fn zone_of_path(path: &Path) -> Option<String> {
    let mut parts = path.components();
    parts.find(|part| *part == Component::Normal("zoneinfo".as_ref()))?;
    let name = parts.as_path().to_str()?;
    is_zone_name(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_is_named_by_its_path() {
        let zone = |path: &str| zone_of_path(Path::new(path));
        assert_eq!(
            zone("../usr/share/zoneinfo/Europe/Berlin").as_deref(),
            Some("Europe/Berlin")
        );
        assert_eq!(
            zone("/usr/share/zoneinfo/Etc/UTC").as_deref(),
            Some("Etc/UTC")
        );
        assert_eq!(zone("/etc/timezone.bin"), None);
        assert_eq!(zone("/usr/share/zoneinfo/../../passwd"), None);
    }

    #[test]
    fn setting_is_host_image_or_a_zone() {
        let read = |text: &str| -> Result<TimeZoneSetting, toml::de::Error> {
            #[derive(Deserialize)]
            struct Section {
                zone: TimeZoneSetting,
            }
            toml::from_str::<Section>(&format!("zone = {text:?}")).map(|section| section.zone)
        };
        assert_eq!(read("host").unwrap(), TimeZoneSetting::Host);
        assert_eq!(read("image").unwrap(), TimeZoneSetting::Image);
        assert_eq!(
            read("Asia/Tokyo").unwrap(),
            TimeZoneSetting::Named("Asia/Tokyo".to_owned())
        );
        for invalid in ["", "/etc/passwd", "../passwd", "Europe Berlin"] {
            assert!(read(invalid).is_err(), "{invalid}");
        }
    }
}
