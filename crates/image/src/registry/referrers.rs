//! What refers to a manifest (distribution-spec v1.1, "Listing Referrers").
//!
//! No filter is asked for: it is by the artifact's type, and what is looked for may have any.

use reqwest::{
    Client, Response, Url,
    header::{ACCEPT, CONTENT_TYPE, LINK},
};
use serde::Deserialize;

use super::{FetchError, LARGEST_MANIFEST, Registry};
use crate::{
    Descriptor, Digest,
    media_type::{self, ManifestKind},
};

/// A list may come in this many pages.
const MOST_PAGES: usize = 64;

/// A manifest that names another as its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Referrer {
    pub(crate) descriptor: Descriptor,
    /// What its author calls it.
    pub(crate) artifact_type: Option<String>,
}

#[derive(Deserialize)]
struct List {
    /// Registries write `null` for none.
    manifests: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    size: u64,
    artifact_type: Option<String>,
}

impl Registry {
    /// The manifests that refer to `subject`. A registry without that request, which
    /// `has_api` remembers, has them listed under a tag if anywhere ("Referrers Tag Schema").
    pub(crate) async fn referrers(
        &self,
        subject: &Digest,
        has_api: &mut bool,
    ) -> Result<Vec<Referrer>, FetchError> {
        if *has_api {
            match self.all_pages(&format!("referrers/{subject}")).await? {
                Some(referrers) => return Ok(referrers),
                None => *has_api = false,
            }
        }
        let tag = format!("manifests/sha256-{}", subject.hex());
        Ok(self.all_pages(&tag).await?.unwrap_or_default())
    }

    /// None if there is no such list.
    async fn all_pages(&self, path: &str) -> Result<Option<Vec<Referrer>>, FetchError> {
        let accepted = media_type::INDEXES.join(", ");
        let ask = |client: &Client, url: Url| client.get(url).header(ACCEPT, &accepted);
        let (mut page, mut size, mut referrers) = (path.to_owned(), 0, Vec::new());
        for _ in 0..MOST_PAGES {
            let response = match self.get(&page, ask).await {
                Ok(response) => response,
                Err(FetchError::NotFound { .. } | FetchError::Refused { status: 405, .. }) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let (is_json, next) = (is_json(&response), next(&response)?);
            let body = self
                .body(response, "list of referrers", LARGEST_MANIFEST - size)
                .await?;
            size += body.len() as u64;
            match parsed(&body) {
                Ok(page) => referrers.extend(page),
                // A page for people, from a registry that does not know the request.
                Err(_) if !is_json => return Ok(None),
                Err(error) => return Err(error),
            }
            match next {
                Some(next) => page = next.into(),
                None => return Ok(Some(referrers)),
            }
        }
        Err(malformed("it comes in too many pages".to_owned()))
    }
}

/// The next page, which is where this one is.
fn next(response: &Response) -> Result<Option<Url>, FetchError> {
    let links = response.headers().get_all(LINK).iter();
    let links = links.filter_map(|value| value.to_str().ok());
    let Some(target) = links.filter_map(next_of).next() else {
        return Ok(None);
    };
    match response.url().join(target) {
        Ok(next) if next.origin() == response.url().origin() => Ok(Some(next)),
        _ => Err(malformed(format!(
            "it goes on at {target:?}, which is another server"
        ))),
    }
}

/// Whether it is called JSON; a list may come without being called so.
fn is_json(response: &Response) -> bool {
    let called = response.headers().get(CONTENT_TYPE);
    called.is_some_and(|called| called.as_bytes().windows(4).any(|four| four == b"json"))
}

/// The target of `<target>; rel="next"` in a Link header (RFC 8288).
fn next_of(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, link)) = rest.split_once('<') {
        let (target, behind) = link.split_once('>')?;
        let parameters = behind.split('<').next().unwrap_or_default();
        let is_next = parameters.split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            name.trim().eq_ignore_ascii_case("rel")
                && value
                    .trim()
                    .trim_matches('"')
                    .split_whitespace()
                    .any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target);
        }
        rest = behind;
    }
    None
}

/// Entries that are no manifest of an artifact, or that cannot be checked, are left out.
fn parsed(body: &[u8]) -> Result<Vec<Referrer>, FetchError> {
    let list: List = serde_json::from_slice(body).map_err(|error| malformed(error.to_string()))?;
    let entries = list.manifests.unwrap_or_default().into_iter();
    let referrers = entries.filter_map(|entry| {
        let kind = media_type::manifest_kind(&entry.media_type)?;
        Some(Referrer {
            descriptor: Descriptor {
                digest: entry.digest.parse().ok()?,
                media_type: entry.media_type,
                size: entry.size,
            },
            artifact_type: entry.artifact_type,
        })
        .filter(|_| kind == ManifestKind::Image)
    });
    Ok(referrers.collect())
}

fn malformed(reason: String) -> FetchError {
    FetchError::Malformed {
        what: "list of referrers",
        reason: reason.chars().take(300).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_the_link_that_says_so() {
        for (header, next) in [
            (
                r#"</v2/a?n=1&last=b>; rel="next""#,
                Some("/v2/a?n=1&last=b"),
            ),
            (r#"<a>; rel=prev, <b,c>; title="x"; REL=Next"#, Some("b,c")),
            (r#"<a>;rel="last next""#, Some("a")),
            (r#"<a>; rel="prev""#, None),
            ("<a", None),
            ("", None),
        ] {
            assert_eq!(next_of(header), next, "{header}");
        }
    }

    #[test]
    fn what_cannot_be_a_referrer_is_left_out() {
        let digest = Digest::of(b"x");
        let body = format!(
            r#"{{"schemaVersion": 2, "manifests": [
                {{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "{digest}", "size": 1}},
                {{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "md5:0", "size": 1}},
                {{"mediaType": "application/vnd.oci.image.index.v1+json", "digest": "{digest}", "size": 1}}
            ]}}"#
        );
        let referrers = parsed(body.as_bytes()).unwrap();
        assert_eq!(referrers.len(), 1);
        assert_eq!(referrers[0].descriptor.digest, digest);
        assert_eq!(parsed(br#"{"manifests": null}"#).unwrap(), []);
        assert!(parsed(b"[").is_err());
    }
}
