//! Whether a registry of a private network uses HTTPS, which is asked once before the first
//! request.

use std::time::Duration;

use reqwest::Url;

use super::{
    Access, RegistryError, RegistryHost, error,
    http::HttpClientKind,
    scheme::{ResolvedScheme, SchemeRule},
};

/// Timeout for an answer over HTTPS. A server of plain HTTP may wait for more than the TLS
/// handshake begins with.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Returns the scheme for a registry.
///
/// # Errors
/// If there can be no HTTP client for it, or its name is invalid.
pub(super) async fn choose_scheme(
    host: &RegistryHost,
    access: Access<'_>,
) -> Result<ResolvedScheme, RegistryError> {
    match access.scheme_for(host) {
        SchemeRule::Always(scheme) => Ok(scheme),
        SchemeRule::HttpsFirst if uses_https(host, access).await? => Ok(ResolvedScheme::Https),
        SchemeRule::HttpsFirst => Ok(ResolvedScheme::AnonymousHttp),
    }
}

/// Requests the base of the registry's API. A certificate that is not trusted is no reason for
/// plain HTTP.
async fn uses_https(host: &RegistryHost, access: Access<'_>) -> Result<bool, RegistryError> {
    let url = base_url(ResolvedScheme::Https, host, "")?;
    let client = HttpClientKind::Download.build(host, &url, access)?;
    let answer = client.get(url).timeout(TIMEOUT).send().await;
    let Err(error) = answer else {
        return Ok(true);
    };
    let error = error::from_connection(host.to_string(), error, None);
    tracing::debug!("{error}");
    Ok(matches!(
        error,
        RegistryError::UntrustedCertificate { .. } | RegistryError::Handshake { .. }
    ))
}

/// Returns the URL of a path in the registry's API.
pub(super) fn base_url(
    scheme: ResolvedScheme,
    host: &RegistryHost,
    path: &str,
) -> Result<Url, RegistryError> {
    let url = format!("{scheme}://{}/v2/{path}", host.address());
    Url::parse(&url).map_err(|error| RegistryError::InvalidAddress {
        registry: host.to_string(),
        reason: error.to_string(),
    })
}
