//! What an image's programs run on.

use std::{env::consts, fmt, str::FromStr};

use crate::ImageError;

/// An operating system and an architecture (image-spec, image-index.md, "platform"), in the
/// words that Go and so all registries use: `linux/amd64`, `linux/arm64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64` …
    pub architecture: String,
    /// `v7`, `v8` …, where the architecture has such.
    pub variant: Option<String>,
}

/// Not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no platform: write os/architecture, such as linux/amd64, or os/architecture/variant"
)]
pub struct InvalidPlatform(String);

impl Platform {
    /// What this host runs: Linux, whatever the host's own system, on the host's architecture.
    pub fn host() -> Platform {
        Platform::new("linux", consts::ARCH, None)
    }

    /// A platform in normal form: `x86_64` is `amd64`, and a variant that says nothing is left
    /// out.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "x86" | "i386" | "i686" => "386",
            "powerpc64le" => "ppc64le",
            other => other,
        };
        let variant = match (architecture, variant) {
            (_, None | Some("")) | ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) => None,
            ("arm", Some(number @ ("5" | "6" | "7" | "8"))) => Some(format!("v{number}")),
            (_, Some(other)) => Some(other.to_owned()),
        };
        Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant,
        }
    }

    /// How well an image for `offered` serves whoever wants this platform: lower is better,
    /// `None` is not at all.
    pub(crate) fn distance(&self, offered: &Platform) -> Option<u8> {
        if (&self.os, &self.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        match (&self.variant, &offered.variant) {
            (wanted, offered) if wanted == offered => Some(0),
            (_, None) => Some(1),
            // Nobody said which variant: the highest ARM that is common, else any.
            (None, Some(variant)) if self.architecture != "arm" || variant == "v7" => Some(2),
            (None, Some(_)) => Some(3),
            (Some(_), Some(_)) => None,
        }
    }
}

impl FromStr for Platform {
    type Err = ImageError;

    fn from_str(word: &str) -> Result<Platform, ImageError> {
        let parts: Vec<&str> = word.split('/').collect();
        let is_word = |part: &&str| {
            let is_letter = |letter: u8| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter);
            !part.is_empty() && part.bytes().all(is_letter)
        };
        let platform = match parts.as_slice() {
            [os, architecture] => Some(Platform::new(os, architecture, None)),
            [os, architecture, variant] => Some(Platform::new(os, architecture, Some(variant))),
            _ => None,
        };
        match platform {
            Some(platform) if parts.iter().all(is_word) => Ok(platform),
            _ => Err(InvalidPlatform(word.chars().take(200).collect()).into()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(word: &str) -> Platform {
        word.parse().unwrap()
    }

    #[test]
    fn other_names_of_the_same_are_the_same() {
        assert_eq!(platform("linux/x86_64"), platform("linux/amd64"));
        assert_eq!(platform("linux/aarch64"), platform("linux/arm64/v8"));
        assert_eq!(platform("linux/arm/7").to_string(), "linux/arm/v7");
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for word in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/v7/x",
            "a b/c",
            "linux/\u{e9}",
        ] {
            assert!(word.parse::<Platform>().is_err(), "{word}");
        }
    }

    #[test]
    fn the_nearest_variant_is_taken() {
        let distance = |wanted, offered| platform(wanted).distance(&platform(offered));
        assert_eq!(distance("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(distance("linux/arm", "linux/arm/v7"), Some(2));
        assert_eq!(distance("linux/arm", "linux/arm/v6"), Some(3));
        assert_eq!(distance("linux/arm/v7", "linux/arm"), Some(1));
        assert_eq!(distance("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(distance("linux/amd64", "linux/arm64"), None);
        assert_eq!(distance("linux/amd64", "windows/amd64"), None);
    }
}
