//! What can go wrong between us and a registry.

use std::{error::Error, io, path::PathBuf};

use reqwest::Response;
use rustls::CertificateError;

use crate::{Digest, Platform, credentials::Place, store::StoreError};

/// Why an image was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The registry's name is none.
    #[error("{registry} is no address of a registry: {reason}")]
    Address {
        /// The registry.
        registry: String,
        /// Why.
        reason: String,
    },
    /// No connection can be made at all.
    #[error("getting ready to connect: {reason}; is the package ca-certificates installed?")]
    Client {
        /// Why.
        reason: String,
    },
    /// Nobody answers.
    #[error(
        "no registry can be reached at {registry}: {reason}; check the name, that it is running, and the network"
    )]
    Unreachable {
        /// The registry.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The connection ended too soon.
    #[error("the connection to {registry} broke: {reason}; try again")]
    Broken {
        /// The registry.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The registry does not have a part of it.
    #[error(
        "{registry} does not have its part {digest}: whoever keeps it there has to push it again"
    )]
    Incomplete {
        /// The registry.
        registry: String,
        /// The part.
        digest: Digest,
    },
    /// The registry does not have it.
    #[error("there is no image {image} at {registry}: check its name and its tag")]
    NotFound {
        /// The registry.
        registry: String,
        /// The image.
        image: String,
    },
    /// The registry does not let us.
    #[error("{registry} does not {}", told_as(.asked_by, registry))]
    Unauthorized {
        /// The registry.
        registry: String,
        /// Who we were to it.
        asked_by: AskedBy,
    },
    /// The credentials are wrong.
    #[error(
        "{registry} does not accept the credentials of {user} from {place}: log in anew, with `container registry login {registry}`"
    )]
    CredentialsRefused {
        /// The registry.
        registry: String,
        /// Whose they are.
        user: String,
        /// Where they were found.
        place: Place,
    },
    /// Encrypted words are answered in plain ones.
    #[error(
        "{registry} does not speak https: it answers without encryption; choose --scheme http if it is meant to be so"
    )]
    NotEncrypted {
        /// The registry.
        registry: String,
    },
    /// Plain words are refused.
    #[error("{registry} speaks https only: choose --scheme https")]
    NotPlain {
        /// The registry.
        registry: String,
    },
    /// Its certificate is not to be trusted.
    #[error(
        "the certificate of {registry} cannot be trusted: {reason}; if an authority of your own vouches for it, put that authority's certificate into /etc/containers/certs.d/{registry}/ca.crt"
    )]
    Untrusted {
        /// The registry.
        registry: String,
        /// Why not.
        reason: String,
    },
    /// No encrypted connection comes about.
    #[error(
        "{registry} refuses an encrypted connection: {reason}; if it wants a certificate of you, put that into /etc/containers/certs.d/{registry}/client.cert, and its key beside it into client.key"
    )]
    Handshake {
        /// The registry.
        registry: String,
        /// Its words.
        reason: String,
    },
    /// A file with certificates cannot be used.
    #[error("reading certificates from {file}: {reason}")]
    Certificates {
        /// The file.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The environment names a proxy that is none.
    #[error(
        "the variable {variable} is not the address of a proxy, such as http://proxy.example:3128"
    )]
    Proxy {
        /// The variable.
        variable: &'static str,
    },
    /// The registry gave another answer than a good one.
    #[error("{registry} answered with status {status}: {message}")]
    Refused {
        /// The registry.
        registry: String,
        /// HTTP's number.
        status: u16,
        /// The registry's words.
        message: String,
    },
    /// More than we take.
    #[error("its {what} is larger than {limit} bytes, which no honest image needs")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// Bytes.
        limit: u64,
    },
    /// The manifest is not the one asked for.
    #[error(
        "its manifest came with the digest {found} where {expected} was asked for: it was changed or damaged on its way, and was thrown away"
    )]
    WrongManifest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Something in it cannot be read.
    #[error("its {what} cannot be understood: {reason}")]
    Malformed {
        /// What.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// Something in it is of a kind that we do not know.
    #[error(
        "its {what} is of the media type {media_type:?}, of which no disk can be made; container images are of Docker's schema 2 or OCI's"
    )]
    UnsupportedMediaType {
        /// What.
        what: &'static str,
        /// The media type.
        media_type: String,
    },
    /// It is not for this platform.
    #[error("it is not made for {wanted}, only for {}", listed(.offered))]
    NoPlatform {
        /// What was wanted.
        wanted: Platform,
        /// What there is.
        offered: Vec<Platform>,
    },
    /// Another program on this host has it, and does not hand it over.
    #[error("{place} has it, and does not hand it over: {reason}")]
    Local {
        /// Whose it is.
        place: String,
        /// Why.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who asked a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedBy {
    /// Nobody in particular.
    Anyone {
        /// Why credentials could not be looked for, a sentence each.
        problems: Vec<String>,
    },
    /// Somebody.
    User {
        /// Who.
        name: String,
        /// Where the credentials were found.
        place: Place,
    },
}

/// The rest of the sentence that begins with a registry.
fn told_as(asked_by: &AskedBy, registry: &str) -> String {
    match asked_by {
        AskedBy::Anyone { problems } => {
            let advice = format!(
                "give this image to everyone: it is private, or does not exist; check its name, or log in with `container registry login {registry}`"
            );
            with_problems(advice, problems)
        }
        AskedBy::User { name, place } => format!(
            "give this image to {name} (credentials from {place}): it does not exist, or is for others; check its name, or log in as somebody else"
        ),
    }
}

/// A sentence with what else went wrong behind it.
pub(crate) fn with_problems(sentence: String, problems: &[String]) -> String {
    let problems = problems.iter().map(|problem| format!("; {problem}"));
    sentence + &problems.collect::<String>()
}

impl FetchError {
    /// Whether the same might go well a little later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            FetchError::Broken { .. } | FetchError::Unreachable { .. } => true,
            FetchError::Refused { status, .. } => is_busy(*status),
            _ => false,
        }
    }

    /// Whether it is the network's or the registry's failure, so that the image of yesterday is
    /// better than none.
    pub(crate) fn is_offline(&self) -> bool {
        match self {
            FetchError::Client { .. } => true,
            other => other.may_pass(),
        }
    }
}

/// Whether a registry with this answer may have another one a little later.
pub(super) fn is_busy(status: u16) -> bool {
    status == 429 || status >= 500
}

fn listed(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    words.join(", ")
}

/// What it means that a connection failed, perhaps one through a proxy.
pub(super) fn of_connection(
    registry: String,
    error: reqwest::Error,
    proxy: Option<String>,
) -> FetchError {
    let error = error.without_url();
    if let Some(failure) = of_encryption(&registry, &error) {
        return failure;
    }
    let mut reason = innermost(&error);
    if let Some(proxy) = proxy {
        reason += &format!(", through the proxy {proxy}");
    }
    if error.is_connect() || error.is_timeout() {
        FetchError::Unreachable { registry, reason }
    } else {
        FetchError::Broken { registry, reason }
    }
}

fn of_encryption(registry: &str, error: &reqwest::Error) -> Option<FetchError> {
    let registry = registry.to_owned();
    match encryption_error(error)? {
        rustls::Error::InvalidMessage(_) if error.is_connect() => {
            Some(FetchError::NotEncrypted { registry })
        }
        rustls::Error::InvalidCertificate(reason) => Some(FetchError::Untrusted {
            registry,
            reason: match reason {
                CertificateError::UnknownIssuer => {
                    "no authority that is known here vouches for it".to_owned()
                }
                other => other.to_string(),
            },
        }),
        refusal @ (rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_)) => {
            Some(FetchError::Handshake {
                registry,
                reason: refusal.to_string(),
            })
        }
        _ => None,
    }
}

fn encryption_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if let Some(found) = this.downcast_ref() {
            return Some(found);
        }
        // What an I/O error wraps is not its source.
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

/// The words of the lowest cause, which say the most: `Connection refused`, not `error sending
/// request`.
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(lower) = cause.source() {
        cause = lower;
    }
    cause.to_string()
}

/// What [`message`] holds if a registry has no space left.
pub(super) const NO_SPACE: &str = "no space left";

/// Debian's registry tells so by the number of the system's error only.
const NO_SPACE_NUMBER: u64 = 28;

/// What a registry says about its refusal (distribution-spec, "Error codes"), a line of it.
pub(super) async fn message(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > 4096 {
            break;
        }
    }
    let parsed: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let first = parsed.as_ref().map(|body| &body["errors"][0]);
    if first.is_some_and(|first| first["detail"]["Enclosed"]["Err"] == NO_SPACE_NUMBER) {
        return NO_SPACE.to_owned();
    }
    let words = first.and_then(|first| first["message"].as_str());
    let words = words.map_or_else(
        || String::from_utf8_lossy(&body).into_owned(),
        str::to_owned,
    );
    let line: String = words
        .chars()
        .filter(|letter| !letter.is_control())
        .take(200)
        .collect();
    if line.is_empty() {
        "it gave no reason".to_owned()
    } else {
        line
    }
}
