//! What can go wrong between us and a registry.

use std::error::Error;

use reqwest::Response;

use crate::{Digest, Platform, store::StoreError};

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
    /// The registry does not have it.
    #[error("there is no image {image} at {registry}: check its name and its tag")]
    NotFound {
        /// The registry.
        registry: String,
        /// The image.
        image: String,
    },
    /// The registry does not give it to us.
    #[error(
        "{registry} does not give this image to everyone: it is private, or does not exist; check its name"
    )]
    Unauthorized {
        /// The registry.
        registry: String,
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
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FetchError {
    /// Whether the same might go well a little later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            FetchError::Broken { .. } | FetchError::Unreachable { .. } => true,
            FetchError::Refused { status, .. } => *status == 429 || *status >= 500,
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

fn listed(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    words.join(", ")
}

/// The words of the lowest cause, which say the most: `Connection refused`, not `error sending
/// request`.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(lower) = cause.source() {
        cause = lower;
    }
    cause.to_string()
}

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
    let words = parsed
        .as_ref()
        .and_then(|body| body["errors"][0]["message"].as_str());
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
