//! Referrers: manifests that name another one as their subject (distribution-spec v1.1, "Listing
//! Referrers").
//!
//! The list is requested without a filter. A filter selects by artifact type, and machine settings
//! may have any.

use reqwest::{
    Client, Response, Url,
    header::{ACCEPT, CONTENT_TYPE, LINK},
};
use serde::Deserialize;

use super::{RegistryError, client::RegistryClient};
use crate::{
    Descriptor, Digest,
    media_type::{self, LARGEST_MANIFEST, ManifestKind},
};

/// Limit of pages in one list.
const MAX_PAGES: usize = 64;

/// Manifest that names another one as its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Referrer {
    pub(crate) descriptor: Descriptor,
    pub(crate) artifact_type: Option<String>,
}

/// Page of a list of referrers: an index with fields that an index for platforms lacks.
#[derive(Deserialize)]
struct ReferrerList {
    /// Some registries write `null` for an empty list.
    manifests: Option<Vec<ListedReferrer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedReferrer {
    media_type: String,
    digest: String,
    size: u64,
    artifact_type: Option<String>,
}

impl RegistryClient {
    /// Lists the referrers of `subject`. If the registry lacks the referrers API, the list is read
    /// from a tag ("Referrers Tag Schema"), and `has_api` is cleared for the next call.
    pub(crate) async fn list_referrers(
        &self,
        subject: &Digest,
        has_api: &mut bool,
    ) -> Result<Vec<Referrer>, RegistryError> {
        if *has_api {
            let path = format!("referrers/{subject}");
            match self.list_referrers_at(&path).await? {
                Some(referrers) => return Ok(referrers),
                None => *has_api = false,
            }
        }
        let tag = format!("manifests/sha256-{}", subject.hex());
        Ok(self.list_referrers_at(&tag).await?.unwrap_or_default())
    }

    /// Reads all pages of a list. `None` when the list does not exist.
    async fn list_referrers_at(&self, path: &str) -> Result<Option<Vec<Referrer>>, RegistryError> {
        let accepted = media_type::INDEXES.join(", ");
        let request = |http: &Client, url: Url| http.get(url).header(ACCEPT, &accepted);
        let (mut page, mut size, mut referrers) = (path.to_owned(), 0, Vec::new());
        for _ in 0..MAX_PAGES {
            let response = match self.get(&page, request).await {
                Ok(response) => response,
                Err(RegistryError::NotFound { .. } | RegistryError::Status { status: 405, .. }) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let (is_json, next) = (is_json(&response), next_page(&response)?);
            let body = self
                .read_body(response, "list of referrers", LARGEST_MANIFEST - size)
                .await?;
            size += body.len() as u64;
            match parse_list(&body) {
                Ok(page) => referrers.extend(page),
                // A registry without the API may answer with an HTML page and status 200.
                Err(_) if !is_json => return Ok(None),
                Err(error) => return Err(invalid(error.to_string())),
            }
            match next {
                Some(next) => page = next.into(),
                None => return Ok(Some(referrers)),
            }
        }
        Err(invalid(format!("it has more than {MAX_PAGES} pages")))
    }
}

/// Returns the URL of the next page, if there is one.
fn next_page(response: &Response) -> Result<Option<Url>, RegistryError> {
    let links = response.headers().get_all(LINK).iter();
    let links = links.filter_map(|value| value.to_str().ok());
    let target = links.filter_map(parse_next_link).next();
    target
        .map(|target| resolve_next_link(response.url(), target))
        .transpose()
}

/// Resolves a link of `page` to the next one. It must lead to the same server: requests to others
/// would let a registry read what this host can reach.
pub(super) fn resolve_next_link(page: &Url, target: &str) -> Result<Url, RegistryError> {
    match page.join(target) {
        Ok(next) if next.origin() == page.origin() => Ok(next),
        _ => Err(invalid(format!(
            "its next page {target:?} is on another server"
        ))),
    }
}

fn invalid(reason: String) -> RegistryError {
    RegistryError::InvalidResponse {
        what: "list of referrers",
        reason: reason.chars().take(300).collect(),
    }
}

/// Whether the response claims to be JSON. Some registries send lists under other types.
fn is_json(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|it| it.as_bytes().windows(4).any(|four| four == b"json"))
}

/// Parses the target of `<target>; rel="next"` in a Link header (RFC 8288).
pub(super) fn parse_next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, link)) = rest.split_once('<') {
        let (target, after) = link.split_once('>')?;
        let parameters = after.split('<').next().unwrap_or_default();
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
        rest = after;
    }
    None
}

/// Parses a page. Entries that are not artifacts, or have an unsupported digest, are skipped.
pub(super) fn parse_list(body: &[u8]) -> Result<Vec<Referrer>, serde_json::Error> {
    let list: ReferrerList = serde_json::from_slice(body)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_the_link_with_relation_next() {
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
            assert_eq!(parse_next_link(header), next, "{header}");
        }
    }

    #[test]
    fn invalid_entries_are_skipped() {
        let digest = Digest::compute(b"x");
        let body = format!(
            r#"{{"schemaVersion": 2, "manifests": [
                {{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "{digest}", "size": 1}},
                {{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "md5:0", "size": 1}},
                {{"mediaType": "application/vnd.oci.image.index.v1+json", "digest": "{digest}", "size": 1}}
            ]}}"#
        );
        let referrers = parse_list(body.as_bytes()).unwrap();
        assert_eq!(referrers.len(), 1);
        assert_eq!(referrers[0].descriptor.digest, digest);
        assert_eq!(parse_list(br#"{"manifests": null}"#).unwrap(), []);
        assert!(parse_list(b"[").is_err());
    }
}
