//! Entry points for the fuzz target of registries' responses.

#![allow(clippy::unwrap_used, reason = "a panic is how a fuzz target fails")]

use reqwest::Url;

use super::{
    authenticate::TokenResponse,
    blob::parse_content_range,
    challenge::{Challenge, token_url},
    error::parse_message,
    referrers::{parse_list, parse_next_link, resolve_next_link},
    upload::upload_url,
};
use crate::Digest;

/// Parses bytes as the body of each kind of response: a list of referrers, a token, an error.
///
/// # Panics
/// If a parser breaks a promise.
pub fn read_body(body: &[u8]) {
    let _ = parse_list(body);
    let _ = TokenResponse::parse(body).map(TokenResponse::into_token);
    let message = parse_message(body);
    assert!(!message.is_empty() && message.chars().count() <= 200);
    assert!(!message.contains(char::is_control), "{message:?}");
}

/// Parses a text as each header that a response is examined for.
///
/// # Panics
/// If a parser breaks a promise.
pub fn read_header(header: &str) {
    let _ = parse_content_range(header);
    let page: Url = "https://registry.example:5000/v2/a/referrers/b?n=1"
        .parse()
        .unwrap();
    if let Some(next) = parse_next_link(header)
        && let Ok(next) = resolve_next_link(&page, next)
    {
        assert_eq!(next.origin(), page.origin());
    }
    let digest = Digest::compute(b"");
    if let Some(url) = upload_url(&page, header, &digest) {
        let (name, value) = url.query_pairs().last().unwrap();
        assert_eq!((&*name, &*value), ("digest", &*digest.to_string()));
    }
    if let Some(Challenge::Bearer {
        realm,
        service,
        scopes,
    }) = Challenge::choose(Challenge::parse_header(header), &page)
    {
        let url = token_url(realm, service.as_deref(), &scopes);
        assert_eq!(url.scheme(), "https", "{url}");
    }
}
