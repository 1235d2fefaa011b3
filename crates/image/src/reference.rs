//! The name of an image.

use std::fmt;

use oci_spec::distribution::Reference as WrittenReference;

use crate::{Digest, ImageError, registry::DOCKER_HUB};

/// `[domain[:port]/]path[:tag][@digest]`, completed: it has a registry, and a tag or a digest
/// (distribution-spec, "Pulling manifests"; the short forms are Docker's).
#[derive(Debug, Clone)]
pub struct Reference {
    written: WrittenReference,
    digest: Option<Digest>,
    /// It was typed without a registry. Two that mean the same are the same all the same.
    is_short: bool,
}

impl PartialEq for Reference {
    fn eq(&self, other: &Reference) -> bool {
        self.written == other.written
    }
}

impl Eq for Reference {}

/// Why a name names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It is not of the right form.
    #[error(
        "{word:?} is no image's name: {reason}; names look like registry.example/path:tag or path@sha256:…"
    )]
    Invalid {
        /// What was given.
        word: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A digest that cannot be checked.
    #[error("the image {word:?} is named by a digest that is not SHA-256, which cannot be checked")]
    Digest {
        /// What was given.
        word: String,
    },
}

impl Reference {
    /// Reads a reference. A name without a registry belongs to `default_registry`; with
    /// `docker.io` for it, `alpine` is `docker.io/library/alpine:latest`.
    ///
    /// # Errors
    /// [`ImageError::Reference`] if the word is not of the form.
    pub fn parse(word: &str, default_registry: &str) -> Result<Reference, ImageError> {
        let is_short = !names_registry(word);
        let full = if !is_short || default_registry == DOCKER_HUB {
            word.to_owned()
        } else {
            format!("{default_registry}/{word}")
        };
        let written =
            WrittenReference::try_from(full).map_err(|error| ReferenceError::Invalid {
                word: shortened(word),
                reason: error.to_string(),
            })?;
        if written.repository().contains(|it: char| it.is_uppercase()) {
            return Err(ReferenceError::Invalid {
                word: shortened(word),
                reason: "a repository's name has no upper-case letters".to_owned(),
            }
            .into());
        }
        let digest = written.digest().map(str::parse).transpose();
        let digest = digest.map_err(|_| ReferenceError::Digest {
            word: shortened(word),
        })?;
        Ok(Reference {
            written,
            digest,
            is_short,
        })
    }

    /// The name and tag as they were typed, if no registry was: other programs on this host may
    /// have an image of that name which belongs to no registry.
    pub(crate) fn as_typed(&self) -> Option<String> {
        let repository = self.repository();
        let typed = match self.registry() {
            DOCKER_HUB => repository.strip_prefix("library/").unwrap_or(repository),
            _ => repository,
        };
        let tag = self.tag()?;
        self.is_short.then(|| format!("{typed}:{tag}"))
    }

    /// The registry as people name it, with its port.
    pub fn registry(&self) -> &str {
        self.written.registry()
    }

    /// The path at the registry, such as `library/alpine`.
    pub fn repository(&self) -> &str {
        self.written.repository()
    }

    /// The last part of the repository, such as `alpine`.
    pub fn last_part(&self) -> &str {
        let repository = self.repository();
        repository.rsplit('/').next().unwrap_or(repository)
    }

    /// The reference as people type it where `default_registry` is the one that is meant without a
    /// name, and without tag and digest: `alpine`, `quay.io/fedora/fedora`.
    pub fn short_name(&self, default_registry: &str) -> String {
        let (registry, repository) = (self.registry(), self.repository());
        let full = format!("{registry}/{repository}");
        let same = |word: &&str| {
            Reference::parse(word, default_registry)
                .is_ok_and(|meant| (meant.registry(), meant.repository()) == (registry, repository))
        };
        let official = repository.strip_prefix("library/");
        let shorter = official.into_iter().chain([repository]).find(same);
        shorter.map_or(full, str::to_owned)
    }

    /// The same image under a name that says which content it is.
    pub fn with_digest(&self, digest: &Digest) -> Reference {
        let written = WrittenReference::with_digest(
            self.registry().to_owned(),
            self.repository().to_owned(),
            digest.to_string(),
        );
        Reference {
            written,
            digest: Some(*digest),
            is_short: false,
        }
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.written.tag()
    }

    /// The digest, if there is one. It counts more than the tag.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The tag, or the digest where there is none.
    pub fn tag_or_digest(&self) -> &str {
        self.tag().or(self.written.digest()).unwrap_or_default()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written.fmt(f)
    }
}

/// Docker's rule: the first part is a registry if it could not be part of a path.
fn names_registry(word: &str) -> bool {
    word.split_once('/').is_some_and(|(first, _)| {
        first.contains(['.', ':']) || first == "localhost" || first.contains(char::is_uppercase)
    })
}

fn shortened(word: &str) -> String {
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
    fn a_name_without_a_registry_is_known_as_it_was_typed() {
        let typed = |word: &str, default: &str| Reference::parse(word, default).unwrap().as_typed();
        assert_eq!(
            typed("alpine", "docker.io").as_deref(),
            Some("alpine:latest")
        );
        assert_eq!(typed("local/x:1", "quay.io").as_deref(), Some("local/x:1"));
        assert_eq!(typed("docker.io/library/alpine", "docker.io"), None);
        assert_eq!(typed("localhost/x", "docker.io"), None);
    }

    #[test]
    fn a_short_name_means_the_same() {
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
        // Without the registry it would name another one.
        assert_eq!(short("quay.io/a.b/c", "quay.io"), "quay.io/a.b/c");
    }

    #[test]
    fn a_name_with_a_digest_reads_as_it_is_written() {
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
    fn parts_can_be_asked_for() {
        let word = format!("127.0.0.1:5000/a/debian-systemd:12@{DIGEST}");
        let reference = Reference::parse(&word, "docker.io").unwrap();
        assert_eq!(reference.to_string(), word);
        assert_eq!(reference.registry(), "127.0.0.1:5000");
        assert_eq!(reference.repository(), "a/debian-systemd");
        assert_eq!(reference.last_part(), "debian-systemd");
        assert_eq!(reference.tag_or_digest(), "12");
        assert_eq!(reference.digest(), Some(DIGEST.parse().unwrap()));

        let by_digest = Reference::parse(&format!("alpine@{DIGEST}"), "docker.io").unwrap();
        assert_eq!(by_digest.tag(), None);
        assert_eq!(by_digest.tag_or_digest(), DIGEST);
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_sentence() {
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
            assert!(matches!(error, ImageError::Reference(_)), "{word}: {error}");
            assert!(error.to_string().len() < 600);
        }
    }
}
