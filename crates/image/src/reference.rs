//! Image references: parsing, completing and printing the names of images.

use std::fmt;

use oci_spec::distribution::Reference as ParsedReference;

use crate::Digest;

/// Registry of references without one, where official images are under `library/`.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// Reference to an image, `registry[:port]/repository[:tag][@digest]`. It is complete: it has a
/// registry, and a tag or a digest (distribution-spec, "Pulling manifests"; Docker defines the
/// short forms).
#[derive(Debug, Clone)]
pub struct Reference {
    parsed: ParsedReference,
    digest: Option<Digest>,
    /// Whether it was entered without a registry. Not part of equality: `alpine` and
    /// `docker.io/library/alpine` are the same image.
    is_short: bool,
}

impl PartialEq for Reference {
    fn eq(&self, other: &Reference) -> bool {
        self.parsed == other.parsed
    }
}

impl Eq for Reference {}

/// Error for text that is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text does not have the form of a reference.
    #[error(
        "invalid image reference {word:?}: {reason} (expected registry.example/path:tag or path@sha256:…)"
    )]
    Invalid {
        /// Text that was entered, at most 300 characters of it.
        word: String,
        /// First rule that it breaks.
        reason: String,
    },
    /// The digest uses another algorithm than SHA-256.
    #[error("digest of image reference {word:?} is not supported (only sha256 is)")]
    UnsupportedDigest {
        /// Text that was entered, at most 300 characters of it.
        word: String,
    },
}

impl Reference {
    /// Parses a reference. A name without a registry gets `default_registry`; if that is
    /// `docker.io`, `alpine` becomes `docker.io/library/alpine:latest`.
    ///
    /// # Errors
    /// [`ReferenceError`] if the text is not a reference, or its digest is not SHA-256.
    pub fn parse(word: &str, default_registry: &str) -> Result<Reference, ReferenceError> {
        let is_short = !has_registry(word);
        let full = if !is_short || default_registry == DOCKER_HUB {
            word.to_owned()
        } else {
            format!("{default_registry}/{word}")
        };
        let parsed = ParsedReference::try_from(full).map_err(|error| ReferenceError::Invalid {
            word: truncated(word),
            reason: error.to_string(),
        })?;
        // The parser accepts these, but no registry does.
        if parsed.repository().contains(|it: char| it.is_uppercase()) {
            return Err(ReferenceError::Invalid {
                word: truncated(word),
                reason: "a repository name must be lower case".to_owned(),
            });
        }
        let digest = parsed.digest().map(str::parse).transpose();
        let digest = digest.map_err(|_| ReferenceError::UnsupportedDigest {
            word: truncated(word),
        })?;
        Ok(Reference {
            parsed,
            digest,
            is_short,
        })
    }

    /// Returns the names under which other programs on this host may have the image: as it was
    /// entered, if that was without a registry (it may have been built locally), then in full.
    pub(crate) fn local_names(&self) -> impl Iterator<Item = String> {
        self.short_form().into_iter().chain([self.to_string()])
    }

    /// Returns name and tag as they were entered, if they were entered without a registry.
    fn short_form(&self) -> Option<String> {
        let repository = self.repository();
        let entered = match self.registry() {
            DOCKER_HUB => repository.strip_prefix("library/").unwrap_or(repository),
            _ => repository,
        };
        let tag = self.tag()?;
        self.is_short.then(|| format!("{entered}:{tag}"))
    }

    /// Returns the registry, `host[:port]`.
    pub fn registry(&self) -> &str {
        self.parsed.registry()
    }

    /// Returns the path at the registry, such as `library/alpine`.
    pub fn repository(&self) -> &str {
        self.parsed.repository()
    }

    /// Returns the shortest name that parses to this registry and repository when
    /// `default_registry` is the default: `alpine`, `quay.io/fedora/fedora`. Tag and digest are
    /// left out.
    pub fn short_name(&self, default_registry: &str) -> String {
        let (registry, repository) = (self.registry(), self.repository());
        let full = format!("{registry}/{repository}");
        let is_same = |word: &&str| {
            Reference::parse(word, default_registry).is_ok_and(|parsed| {
                (parsed.registry(), parsed.repository()) == (registry, repository)
            })
        };
        let official = repository.strip_prefix("library/");
        let shorter = official.into_iter().chain([repository]).find(is_same);
        shorter.map_or(full, str::to_owned)
    }

    /// Returns the reference to this digest in the same repository, without a tag.
    pub fn with_digest(&self, digest: &Digest) -> Reference {
        let parsed = ParsedReference::with_digest(
            self.registry().to_owned(),
            self.repository().to_owned(),
            digest.to_string(),
        );
        Reference {
            parsed,
            digest: Some(*digest),
            is_short: false,
        }
    }

    /// Returns the tag. None only if there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.parsed.tag()
    }

    /// Returns the digest, which takes precedence over the tag.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Returns what to request from the registry: the digest, or the tag if there is none.
    pub(crate) fn manifest_name(&self) -> &str {
        self.parsed.digest().or(self.tag()).unwrap_or_default()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parsed.fmt(f)
    }
}

/// Docker's rule: the first part is a registry if it could not be part of a repository name.
fn has_registry(word: &str) -> bool {
    word.split_once('/').is_some_and(|(first, _)| {
        first.contains(['.', ':']) || first == "localhost" || first.contains(char::is_uppercase)
    })
}

fn truncated(word: &str) -> String {
    word.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn full(word: &str, default_registry: &str) -> String {
        let reference = Reference::parse(word, default_registry).unwrap();
        reference.to_string()
    }

    #[test]
    fn short_names_are_completed() {
        assert_eq!(
            full("alpine", "docker.io"),
            "docker.io/library/alpine:latest"
        );
        assert_eq!(full("user/app:1", "docker.io"), "docker.io/user/app:1");
        assert_eq!(full("alpine", "quay.io"), "quay.io/alpine:latest");
        assert_eq!(
            full("user/app:1", "127.0.0.1:5000"),
            "127.0.0.1:5000/user/app:1"
        );
        assert_eq!(full("localhost/app", "quay.io"), "localhost/app:latest");
        assert_eq!(
            full("docker.io/alpine:3", "quay.io"),
            "docker.io/library/alpine:3"
        );
    }

    #[test]
    fn a_name_without_a_registry_keeps_its_short_form() {
        let short_form =
            |word: &str, default: &str| Reference::parse(word, default).unwrap().short_form();
        assert_eq!(
            short_form("alpine", "docker.io").as_deref(),
            Some("alpine:latest")
        );
        assert_eq!(
            short_form("local/x:1", "quay.io").as_deref(),
            Some("local/x:1")
        );
        assert_eq!(short_form("docker.io/library/alpine", "docker.io"), None);
        assert_eq!(short_form("localhost/x", "docker.io"), None);
    }

    #[test]
    fn a_short_name_parses_to_the_same_repository() {
        let short = |word: &str, default: &str| {
            Reference::parse(word, "docker.io")
                .unwrap()
                .short_name(default)
        };
        assert_eq!(short("alpine:3", "docker.io"), "alpine");
        assert_eq!(short("user/app", "docker.io"), "user/app");
        assert_eq!(short("alpine", "quay.io"), "docker.io/library/alpine");
        assert_eq!(short("quay.io/a/b:1", "quay.io"), "a/b");
        assert_eq!(short("quay.io/a/b:1", "docker.io"), "quay.io/a/b");
        assert_eq!(short("localhost:5000/x", "docker.io"), "localhost:5000/x");
        // `a.b` would be parsed as a registry.
        assert_eq!(short("quay.io/a.b/c", "quay.io"), "quay.io/a.b/c");
    }

    #[test]
    fn a_reference_with_a_digest_parses_back() {
        let named = Reference::parse("alpine:3", "docker.io").unwrap();
        let named = named.with_digest(&DIGEST.parse().unwrap());
        assert_eq!(
            named.to_string(),
            format!("docker.io/library/alpine@{DIGEST}")
        );
        assert_eq!(
            Reference::parse(&named.to_string(), "quay.io").unwrap(),
            named
        );
    }

    #[test]
    fn a_reference_is_split_into_its_parts() {
        let word = format!("127.0.0.1:5000/a/debian-systemd:12@{DIGEST}");
        let reference = Reference::parse(&word, "docker.io").unwrap();
        assert_eq!(reference.to_string(), word);
        assert_eq!(reference.registry(), "127.0.0.1:5000");
        assert_eq!(reference.repository(), "a/debian-systemd");
        assert_eq!(reference.tag(), Some("12"));
        assert_eq!(reference.manifest_name(), DIGEST);
        assert_eq!(reference.digest(), Some(DIGEST.parse().unwrap()));

        let by_digest = Reference::parse(&format!("alpine@{DIGEST}"), "docker.io").unwrap();
        assert_eq!(by_digest.tag(), None);
        assert_eq!(by_digest.manifest_name(), DIGEST);
    }

    #[test]
    fn invalid_references_are_refused_with_a_short_message() {
        let short_digest = "alpine@sha256:1234";
        let sha512 = format!("alpine@sha512:{}", "0".repeat(128));
        let long = "a".repeat(100_000);
        let words = [
            "",
            ":tag",
            "Alpine",
            "UPPER/x",
            "a b",
            "../etc",
            "a//b",
            short_digest,
            &sha512,
            &long,
        ];
        for word in words {
            let error = Reference::parse(word, "docker.io").unwrap_err();
            assert!(error.to_string().len() < 600);
        }
    }
}
