//! Showing a registry who we are: by a token (distribution's "Token Authentication Specification"
//! and "OAuth2 Token Authentication"), or by name and password; and logging in and out.

use std::{collections::BTreeSet, path::Path};

use reqwest::{RequestBuilder, Response, Url, header::WWW_AUTHENTICATE};
use serde::Deserialize;

use super::{
    Access, FetchError, Registry, RegistryHost, client::ClientFor, error, session::Authorization,
};
use crate::credentials::{self, Credential, KeepError, LoggedOut, Place, Secret};

/// Token services' answers larger than this are refused.
const LARGEST_ANSWER: usize = 64 << 10;

/// What we call ourselves to token services.
const CLIENT: &str = "container";

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Bearer {
        /// Its token service.
        realm: Url,
        service: Option<String>,
        /// What the token should allow, where it says so.
        scopes: BTreeSet<String>,
    },
    Basic,
}

/// Something to show in place of what was refused; several requests refused at once share it.
/// None if there is nothing else to show.
pub(super) async fn authorized_anew(
    registry: &Registry,
    refused: &Response,
    shown: Option<Authorization>,
) -> Result<Option<Authorization>, FetchError> {
    let mut current = registry.session.locked().await;
    if *current != shown {
        return Ok(current.clone());
    }
    let challenges = refused.headers().get_all(WWW_AUTHENTICATE).iter();
    let challenges = challenges.filter_map(|value| value.to_str().ok());
    let challenges: Vec<Challenge> = challenges.flat_map(challenges_in).collect();
    let fresh = match chosen(challenges, &registry.repository) {
        Some(Challenge::Bearer {
            realm,
            service,
            scopes,
        }) => token(registry, realm, service, scopes).await?,
        Some(Challenge::Basic) => match registry.session.credential(registry).await {
            Some(Credential::Password { username, password }) => Some(Authorization::Basic {
                username: username.clone(),
                password: password.clone(),
            }),
            _ => None,
        },
        None => None,
    };
    if fresh == shown {
        return Ok(None);
    }
    current.clone_from(&fresh);
    Ok(fresh)
}

/// A token service where there is one that is as safe as the registry.
fn chosen(challenges: Vec<Challenge>, registry: &Url) -> Option<Challenge> {
    let mut best = None;
    for challenge in challenges {
        match &challenge {
            Challenge::Bearer { realm, .. } if is_as_safe(realm, registry) => {
                return Some(challenge);
            }
            Challenge::Bearer { .. } => {}
            Challenge::Basic => best = Some(challenge),
        }
    }
    best
}

/// A registry that is asked over TLS cannot send us to a token service without it.
fn is_as_safe(service: &Url, registry: &Url) -> bool {
    match service.scheme() {
        "https" => true,
        "http" => registry.scheme() == "http",
        _ => false,
    }
}

async fn token(
    registry: &Registry,
    realm: Url,
    service: Option<String>,
    asked: BTreeSet<String>,
) -> Result<Option<Authorization>, FetchError> {
    let scopes = scopes(registry, asked);
    let credential = registry.session.credential(registry).await;
    let client = ClientFor::Tokens.built(&registry.host, &realm, registry.access())?;
    let request = match credential {
        Some(Credential::IdentityToken(token)) => {
            let scope: Vec<&str> = scopes.iter().map(String::as_str).collect();
            let scope = scope.join(" ");
            client.post(realm).form(&[
                ("grant_type", "refresh_token"),
                ("service", service.as_deref().unwrap_or_default()),
                ("client_id", CLIENT),
                ("scope", &scope),
                ("refresh_token", token.reveal()),
            ])
        }
        Some(Credential::Password { username, password }) => {
            let mut url = token_url(realm, service.as_deref(), &scopes);
            url.query_pairs_mut().append_pair("account", username);
            client
                .get(url)
                .basic_auth(username, Some(password.reveal()))
        }
        None => client.get(token_url(realm, service.as_deref(), &scopes)),
    };
    let answer = answer(registry, request).await?;
    let token = answer.token.or(answer.access_token);
    Ok(token.map(|token| Authorization::Bearer(Secret::new(token))))
}

/// Where a challenge says nothing of what to ask for, and where more is wanted than the one request
/// that was refused, it is what this is about.
fn scopes(registry: &Registry, mut asked: BTreeSet<String>) -> BTreeSet<String> {
    let wanted = &registry.session.scopes;
    let is_more = wanted.iter().any(|scope| scope.ends_with(":pull,push"));
    if !asked.is_empty() && !is_more {
        return asked;
    }
    let subject = |scope: &str| {
        scope
            .rsplit_once(':')
            .map(|(subject, _)| subject.to_owned())
    };
    let subjects: Vec<_> = wanted.iter().map(|scope| subject(scope)).collect();
    asked.retain(|scope| !subjects.contains(&subject(scope)));
    asked.extend(wanted.iter().cloned());
    asked
}

fn token_url(mut realm: Url, service: Option<&str>, scopes: &BTreeSet<String>) -> Url {
    {
        let mut query = realm.query_pairs_mut();
        for scope in scopes {
            query.append_pair("scope", scope);
        }
        if let Some(service) = service {
            query.append_pair("service", service);
        }
    }
    realm
}

async fn answer(registry: &Registry, request: RequestBuilder) -> Result<Answer, FetchError> {
    let mut response = request.send().await.map_err(registry.broken())?;
    let status = response.status();
    if status.is_client_error() && status != 429 {
        // A refusal with 403 is of what was asked for, any other of who asks.
        return Err(registry.session.refused(&registry.name, status != 403));
    }
    if !status.is_success() {
        return Err(FetchError::Refused {
            registry: registry.name.clone(),
            status: status.as_u16(),
            message: error::message(response).await,
        });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(registry.broken())? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST_ANSWER {
            return Err(FetchError::TooLarge {
                what: "registry's token",
                limit: LARGEST_ANSWER as u64,
            });
        }
    }
    // Not with the parser's words, which may quote a token.
    serde_json::from_slice(&body).map_err(|error| FetchError::Malformed {
        what: "registry's token",
        reason: format!("line {}, column {}", error.line(), error.column()),
    })
}

/// The challenges in one header (RFC 9110, section 11.6.1).
fn challenges_in(header: &str) -> Vec<Challenge> {
    let parsed = http_auth::parse_challenges(header).unwrap_or_default();
    parsed.iter().filter_map(challenge).collect()
}

fn challenge(parsed: &http_auth::ChallengeRef<'_>) -> Option<Challenge> {
    if parsed.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !parsed.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameter = |wanted: &str| {
        let found = parsed
            .params
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.to_unescaped())
    };
    let scopes = parameter("scope").unwrap_or_default();
    Some(Challenge::Bearer {
        realm: Url::parse(&parameter("realm")?).ok()?,
        service: parameter("service"),
        scopes: scopes.split_whitespace().map(str::to_owned).collect(),
    })
}

/// Why nobody was logged in or out.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The registry does not know this user with this password.
    #[error("{registry} does not accept {username} with this password; nothing was kept")]
    Wrong {
        /// The registry.
        registry: RegistryHost,
        /// The user.
        username: String,
    },
    /// The registry could not be asked.
    #[error("logging in to {registry}: {source}")]
    Ask {
        /// The registry.
        registry: RegistryHost,
        /// What went wrong.
        source: FetchError,
    },
    /// The credentials could not be kept or removed.
    #[error(transparent)]
    Keep(#[from] KeepError),
}

/// Checks a name and password at a registry, and keeps them in our file `own`, or with the
/// program that docker's configuration names for that. Returns where they are.
///
/// # Errors
/// [`LoginError`]; nothing is kept then.
pub async fn log_in(
    host: &RegistryHost,
    username: &str,
    password: &Secret,
    own: &Path,
    access: Access<'_>,
) -> Result<Place, LoginError> {
    let credential = Credential::Password {
        username: username.to_owned(),
        password: password.clone(),
    };
    match check(host, credential, access).await {
        Ok(()) => Ok(credentials::keep(host, username, password, own, access).await?),
        Err(FetchError::Unauthorized { .. }) => Err(LoginError::Wrong {
            registry: host.clone(),
            username: username.to_owned(),
        }),
        Err(source) => Err(LoginError::Ask {
            registry: host.clone(),
            source,
        }),
    }
}

/// Asks for the base of the registry's API (distribution-spec, "Determining Support").
async fn check(
    host: &RegistryHost,
    credential: Credential,
    access: Access<'_>,
) -> Result<(), FetchError> {
    let registry = Registry::as_user(host, credential, access)?;
    let checked = registry.get("", |client, url| client.get(url)).await;
    match checked {
        Err(FetchError::NotFound { registry, .. }) => Err(FetchError::Address {
            registry,
            reason: "no registry answers there".to_owned(),
        }),
        other => other.map(drop),
    }
}

/// Removes the credentials that are kept for a registry in our file `own`, and says where there
/// are others.
///
/// # Errors
/// [`LoginError::Keep`].
pub async fn log_out(
    host: &RegistryHost,
    own: &Path,
    access: Access<'_>,
) -> Result<LoggedOut, LoginError> {
    Ok(credentials::forget(host, own, access).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_challenge_names_the_token_service() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;
        let mut challenges = challenges_in(header);
        let Some(Challenge::Bearer {
            realm,
            service,
            scopes,
        }) = challenges.pop()
        else {
            panic!("{challenges:?}");
        };
        let asked = token_url(realm, service.as_deref(), &scopes);
        assert_eq!(
            asked.as_str(),
            "https://auth.docker.io/token?scope=repository%3Alibrary%2Falpine%3Apull&service=registry.docker.io"
        );
        assert_eq!(challenges_in(r#"BASIC realm="x""#), [Challenge::Basic]);
    }

    #[test]
    fn other_challenges_name_none() {
        for header in ["", "Bearer", r#"Bearer realm="not a url""#, "Negotiate"] {
            assert_eq!(challenges_in(header), [], "{header}");
        }
    }

    #[test]
    fn a_token_is_shown_rather_than_a_password() {
        let both = r#"Basic realm="x", Bearer realm="https://a/t""#;
        let registry = url("https://b/v2/");
        let best = chosen(challenges_in(both), &registry);
        assert!(matches!(best, Some(Challenge::Bearer { .. })), "{best:?}");
        let unsafe_service = r#"Basic realm="x", Bearer realm="http://a/t""#;
        let best = chosen(challenges_in(unsafe_service), &registry);
        assert_eq!(best, Some(Challenge::Basic));
    }

    #[test]
    fn encryption_is_not_given_up_on_the_way() {
        assert!(!is_as_safe(&url("http://a/t"), &url("https://b/v2/")));
        assert!(is_as_safe(&url("https://a/t"), &url("https://b/v2/")));
        assert!(is_as_safe(&url("http://a/t"), &url("http://b/v2/")));
        assert!(!is_as_safe(&url("file:///t"), &url("http://b/v2/")));
    }
}
