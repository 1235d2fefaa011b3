//! Errors of requests to a registry, and their derivation from HTTP and TLS errors.

use std::{error::Error, io};

use reqwest::Response;
use rustls::CertificateError;

use super::CertificateFileError;
use crate::{Digest, credentials::CredentialStore};

/// Error of a request to a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry's name does not make a URL.
    #[error("invalid registry address {registry}: {reason}")]
    InvalidAddress {
        /// Name of the registry.
        registry: String,
        /// Error of the URL parser.
        reason: String,
    },
    /// No HTTP client can be created, for example because the host has no certificates.
    #[error("cannot create an HTTP client: {reason} (is the package ca-certificates installed?)")]
    HttpClient {
        /// Error of the HTTP library.
        reason: String,
    },
    /// No connection can be established.
    #[error(
        "cannot connect to registry {registry}: {reason} (check the name, the network, and that the registry is running)"
    )]
    Unreachable {
        /// Name of the registry.
        registry: String,
        /// Error of the connection attempt.
        reason: String,
    },
    /// An established connection failed or timed out.
    #[error("connection to registry {registry} failed: {reason} (try again)")]
    ConnectionFailed {
        /// Name of the registry.
        registry: String,
        /// Error of the connection.
        reason: String,
    },
    /// The registry has the manifest, but not a blob that it references.
    #[error(
        "blob {digest} not found in registry {registry} (the owner of the image must push it again)"
    )]
    BlobNotFound {
        /// Name of the registry.
        registry: String,
        /// Digest of the blob.
        digest: Digest,
    },
    /// The registry does not have the image.
    #[error("image not found in registry {registry} (check its name and tag)")]
    NotFound {
        /// Name of the registry.
        registry: String,
    },
    /// The registry denies access.
    #[error("permission denied by registry {registry}{}", explain_denial(.requester, registry))]
    PermissionDenied {
        /// Name of the registry.
        registry: String,
        /// Identity under which it was asked.
        requester: Requester,
    },
    /// The registry requests credentials over HTTP.
    #[error(
        "registry {registry} requests credentials, which are not sent over http to another host (choose https with --scheme https; or, if everybody in the network may read them, --scheme http)"
    )]
    Unencrypted {
        /// Name of the registry.
        registry: String,
    },
    /// The registry on this host requests credentials for another one, over HTTP.
    #[error(
        "registry {registry} requests credentials for {service}, which are not sent over http to another host (if everybody in the network may read them, use --scheme http)"
    )]
    UnencryptedTokenService {
        /// Name of the registry.
        registry: String,
        /// URL of the token service.
        service: String,
    },
    /// The registry rejects the stored credentials.
    #[error(
        "registry {registry} does not accept the credentials of {user} from {store} (log in again with: container registry login {registry})"
    )]
    InvalidCredentials {
        /// Name of the registry.
        registry: String,
        /// User name of the credentials.
        user: String,
        /// Store of the credentials.
        store: CredentialStore,
    },
    /// The registry answers a TLS handshake in plain HTTP.
    #[error(
        "registry {registry} does not support https: it answers without encryption (if that is intended, use --scheme http)"
    )]
    HttpOnly {
        /// Name of the registry.
        registry: String,
    },
    /// The registry refuses plain HTTP.
    #[error("registry {registry} supports https only (use --scheme https)")]
    HttpsOnly {
        /// Name of the registry.
        registry: String,
    },
    /// The registry's certificate is not trusted.
    #[error(
        "certificate of registry {registry} is not trusted: {reason} (if your own certificate authority signed it, store the authority's certificate as /etc/containers/certs.d/{registry}/ca.crt)"
    )]
    UntrustedCertificate {
        /// Name of the registry.
        registry: String,
        /// Reason of the TLS library.
        reason: String,
    },
    /// The TLS handshake failed for another reason than the certificate.
    #[error(
        "TLS handshake with registry {registry} failed: {reason} (if it requires a client certificate, store it as /etc/containers/certs.d/{registry}/client.cert and its key as client.key in the same directory)"
    )]
    Handshake {
        /// Name of the registry.
        registry: String,
        /// Reason of the TLS library.
        reason: String,
    },
    /// A file with certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertificateFileError),
    /// A proxy variable of the environment is invalid. Its value may contain a password, so the
    /// message does not show it.
    #[error(
        "environment variable {variable} is not a valid proxy address, such as http://proxy.example:3128"
    )]
    InvalidProxy {
        /// Name of the variable.
        variable: &'static str,
    },
    /// The registry answered with another error status.
    #[error("registry {registry} answered with status {status}: {message}")]
    Status {
        /// Name of the registry.
        registry: String,
        /// HTTP status.
        status: u16,
        /// Message in the response, at most 200 characters.
        message: String,
    },
    /// A response is larger than its limit.
    #[error("{what} of the registry is larger than {limit} bytes")]
    TooLarge {
        /// Requested document.
        what: &'static str,
        /// Limit in bytes.
        limit: u64,
    },
    /// A response cannot be parsed.
    #[error("invalid {what} from the registry: {reason}")]
    InvalidResponse {
        /// Requested document.
        what: &'static str,
        /// First error that was found.
        reason: String,
    },
}

/// Identity under which a registry was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requester {
    /// No credentials were found.
    Anonymous {
        /// Errors of the credential files and helpers that could not be read.
        problems: Vec<String>,
    },
    /// Credentials were found and accepted.
    User {
        /// User name.
        name: String,
        /// Store of the credentials.
        store: CredentialStore,
    },
}

fn explain_denial(requester: &Requester, registry: &str) -> String {
    match requester {
        Requester::Anonymous { problems } => {
            let advice = format!(
                ": the image is private, or does not exist (check its name, or log in with: container registry login {registry})"
            );
            append_problems(advice, problems)
        }
        Requester::User { name, store } => format!(
            " for user {name} (credentials from {store}): the image does not exist, or is private to others (check its name, or log in as another user)"
        ),
    }
}

/// Appends the errors of credential files and helpers to a message. They may be its real cause.
pub(crate) fn append_problems(message: String, problems: &[String]) -> String {
    let problems = problems.iter().map(|problem| format!("; {problem}"));
    message + &problems.collect::<String>()
}

impl RegistryError {
    /// Whether a retry may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            RegistryError::ConnectionFailed { .. } | RegistryError::Unreachable { .. } => true,
            RegistryError::Status { status, .. } => is_busy(*status),
            _ => false,
        }
    }

    /// Whether the network or the registry failed, so that an image in the store may be used in
    /// place of the registry's.
    pub(crate) fn is_offline(&self) -> bool {
        match self {
            RegistryError::HttpClient { .. } => true,
            other => other.is_transient(),
        }
    }

    /// Whether the registry has no space left.
    pub(crate) fn is_out_of_space(&self) -> bool {
        match self {
            RegistryError::Status {
                status, message, ..
            } => *status == 507 || message.contains(NO_SPACE),
            _ => false,
        }
    }
}

/// Whether a registry that answers with this status may answer otherwise to a retry.
pub(super) fn is_busy(status: u16) -> bool {
    status == 429 || status >= 500
}

/// Converts the error of a connection, which may have gone through `proxy`.
pub(super) fn from_connection(
    registry: String,
    error: reqwest::Error,
    proxy: Option<String>,
) -> RegistryError {
    // The URL may contain a token.
    let error = error.without_url();
    if let Some(error) = from_tls(&registry, &error) {
        return error;
    }
    let mut reason = root_cause(&error);
    if let Some(proxy) = proxy {
        reason += &format!(", through the proxy {proxy}");
    }
    if error.is_connect() || error.is_timeout() {
        RegistryError::Unreachable { registry, reason }
    } else {
        RegistryError::ConnectionFailed { registry, reason }
    }
}

/// Converts an error that TLS caused. None for any other.
fn from_tls(registry: &str, error: &reqwest::Error) -> Option<RegistryError> {
    let registry = registry.to_owned();
    match find_tls_error(error)? {
        rustls::Error::InvalidMessage(_) if error.is_connect() => {
            Some(RegistryError::HttpOnly { registry })
        }
        rustls::Error::InvalidCertificate(reason) => Some(RegistryError::UntrustedCertificate {
            registry,
            reason: match reason {
                CertificateError::UnknownIssuer => {
                    "it is not signed by a known certificate authority".to_owned()
                }
                other => other.to_string(),
            },
        }),
        error @ (rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_)) => {
            Some(RegistryError::Handshake {
                registry,
                reason: error.to_string(),
            })
        }
        _ => None,
    }
}

fn find_tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if let Some(found) = this.downcast_ref() {
            return Some(found);
        }
        // `source()` of an `io::Error` skips the error that it wraps.
        let wrapped = this
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => this.source(),
        };
    }
    None
}

/// Returns the message of the innermost cause, the only specific one: `Connection refused` rather
/// than `error sending request`.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Message of [`read_message`] for a registry without space, and part of Go's message for ENOSPC.
const NO_SPACE: &str = "no space left";

/// Number of the system error for a full disk.
const ENOSPC: u64 = 28;

/// Reads the message of an error response.
pub(super) async fn read_message(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > 4096 {
            break;
        }
    }
    parse_message(&body)
}

/// Parses the message of an error response (distribution-spec, "Error codes"): one line of at most
/// 200 characters.
pub(super) fn parse_message(body: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let first = parsed.as_ref().map(|body| &body["errors"][0]);
    if first.is_some_and(|first| is_out_of_space(&first["detail"])) {
        return NO_SPACE.to_owned();
    }
    let message = first.and_then(|first| first["message"].as_str());
    let message = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    let line: String = message
        .chars()
        .filter(|letter| !letter.is_control())
        .take(200)
        .collect();
    if line.is_empty() {
        "no message".to_owned()
    } else {
        line
    }
}

/// Whether the detail of an error means a full disk. It is only specified to be JSON. The CNCF
/// registry puts its own error there: a system error, one in a storage driver's error, or a text.
fn is_out_of_space(detail: &serde_json::Value) -> bool {
    let is_text = detail.as_str().is_some_and(|text| text.contains(NO_SPACE));
    is_text || detail["Err"] == ENOSPC || detail["Enclosed"]["Err"] == ENOSPC
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Responses of docker-registry 2.8.2 whose disk is full, with shorter paths.
    #[test]
    fn full_disk_is_recognized() {
        let start = r#"{"DriverName":"filesystem","Enclosed":{"Op":"mkdir","Path":"/a","Err":28}}"#;
        let commit = r#"{"Op":"write","Path":"/a/data","Err":28}"#;
        let body = r#""write /a/data: no space left on device""#;
        for detail in [start, commit, body] {
            let response = format!(
                r#"{{"errors":[{{"code":"UNKNOWN","message":"unknown error","detail":{detail}}}]}}"#
            );
            assert_eq!(parse_message(response.as_bytes()), NO_SPACE, "{detail}");
        }
    }

    #[test]
    fn other_errors_keep_their_message() {
        for detail in [r#"{"Op":"write","Path":"/a","Err":5}"#, r#""no""#, "28"] {
            let response = format!(r#"{{"errors":[{{"message":"mine","detail":{detail}}}]}}"#);
            assert_eq!(parse_message(response.as_bytes()), "mine", "{detail}");
        }
    }
}
