//! Platforms: the operating system and architecture that an image is built for.

use std::{env::consts, fmt, str::FromStr};

/// Operating system and architecture (image-spec, image-index.md, "platform"), named as Go and
/// therefore all registries name them: `linux/amd64`, `linux/arm64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Operating system, such as `linux`.
    pub os: String,
    /// CPU architecture, such as `amd64` or `arm64`.
    pub architecture: String,
    /// Architecture variant, such as `v7`. None for the usual one.
    pub variant: Option<String>,
}

/// Error for text that is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?} (expected os/architecture[/variant], such as linux/amd64)")]
pub struct InvalidPlatform(String);

impl Platform {
    /// Returns the platform of guests on this host: Linux on the host's architecture.
    pub fn host() -> Platform {
        Platform::new("linux", consts::ARCH, None)
    }

    /// Normalizes a platform: `x86_64` becomes `amd64`, and the usual variant of an architecture is
    /// left out.
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

    /// Ranks an image for `offered` when this platform is wanted. Lower is better; `None` means
    /// that the image cannot be used.
    pub(crate) fn distance(&self, offered: &Platform) -> Option<u8> {
        if (&self.os, &self.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        match (&self.variant, &offered.variant) {
            (wanted, offered) if wanted == offered => Some(0),
            (_, None) => Some(1),
            // No variant is requested: prefer v7, the highest common variant of 32-bit ARM.
            (None, Some(variant)) if self.architecture != "arm" || variant == "v7" => Some(2),
            (None, Some(_)) => Some(3),
            (Some(_), Some(_)) => None,
        }
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(word: &str) -> Result<Platform, InvalidPlatform> {
        let parts: Vec<&str> = word.split('/').collect();
        let is_valid = |part: &&str| {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            !part.is_empty() && part.bytes().all(is_allowed)
        };
        let platform = match parts.as_slice() {
            [os, architecture] => Some(Platform::new(os, architecture, None)),
            [os, architecture, variant] => Some(Platform::new(os, architecture, Some(variant))),
            _ => None,
        };
        match platform {
            Some(platform) if parts.iter().all(is_valid) => Ok(platform),
            _ => Err(InvalidPlatform(word.chars().take(200).collect())),
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
    fn aliases_are_normalized() {
        assert_eq!(platform("linux/x86_64"), platform("linux/amd64"));
        assert_eq!(platform("linux/aarch64"), platform("linux/arm64/v8"));
        assert_eq!(platform("linux/arm/7").to_string(), "linux/arm/v7");
    }

    #[test]
    fn invalid_platforms_are_refused() {
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
    fn the_nearest_variant_ranks_first() {
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
