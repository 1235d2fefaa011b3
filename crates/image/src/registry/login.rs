//! Tokens (distribution's "Token Authentication Specification"), for whoever we are: nobody yet.

use reqwest::Url;
use serde::Deserialize;

use super::{FetchError, Registry, error};

/// Token services' answers larger than this are refused.
const LARGEST_ANSWER: usize = 64 << 10;

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Gets the token that these challenges ask for; none if they ask for none that we can get.
pub(super) async fn token(
    registry: &Registry,
    challenges: impl Iterator<Item = &str>,
) -> Result<Option<String>, FetchError> {
    let default_scope = {
        let path = registry.repository.path();
        let repository = path.trim_start_matches("/v2/").trim_end_matches('/');
        format!("repository:{repository}:pull")
    };
    let found = challenges
        .filter_map(|text| service_url(text, &default_scope))
        .find(|url| is_as_safe(url, &registry.repository));
    let Some(url) = found else {
        return Ok(None);
    };
    let sent = registry.client.get(url).send().await;
    let mut response = sent.map_err(registry.broken())?;
    if response.status().is_client_error() && response.status() != 429 {
        return Err(FetchError::Unauthorized {
            registry: registry.name.clone(),
        });
    }
    if !response.status().is_success() {
        return Err(FetchError::Refused {
            registry: registry.name.clone(),
            status: response.status().as_u16(),
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
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| FetchError::Malformed {
        what: "registry's token",
        reason: error.to_string(),
    })?;
    Ok(answer.token.or(answer.access_token))
}

/// A registry that is asked over TLS cannot send us to a token service without it.
fn is_as_safe(service: &Url, registry: &Url) -> bool {
    match service.scheme() {
        "https" => true,
        "http" => registry.scheme() == "http",
        _ => false,
    }
}

fn service_url(challenges: &str, default_scope: &str) -> Option<Url> {
    let challenges = http_auth::parse_challenges(challenges).ok()?;
    let bearer = challenges
        .iter()
        .find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let parameter = |wanted: &str| {
        let found = bearer
            .params
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.to_unescaped())
    };
    let mut url = Url::parse(&parameter("realm")?).ok()?;
    let scope = parameter("scope").unwrap_or_else(|| default_scope.to_owned());
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("scope", &scope);
        if let Some(service) = parameter("service") {
            query.append_pair("service", &service);
        }
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_the_token_service() {
        let challenge = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;
        let url = service_url(challenge, "unused").unwrap();
        assert_eq!(
            url.as_str(),
            "https://auth.docker.io/token?scope=repository%3Alibrary%2Falpine%3Apull&service=registry.docker.io"
        );
        let without_scope = r#"bearer realm="http://127.0.0.1:1/t""#;
        let url = service_url(without_scope, "repository:a:pull").unwrap();
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:1/t?scope=repository%3Aa%3Apull"
        );
    }

    #[test]
    fn other_challenges_name_none() {
        for challenge in [
            r#"Basic realm="x""#,
            "",
            "Bearer",
            r#"Bearer realm="not a url""#,
        ] {
            assert!(service_url(challenge, "x").is_none(), "{challenge}");
        }
    }

    #[test]
    fn encryption_is_not_given_up_on_the_way() {
        let url = |text| Url::parse(text).unwrap();
        assert!(!is_as_safe(&url("http://a/t"), &url("https://b/v2/")));
        assert!(is_as_safe(&url("https://a/t"), &url("https://b/v2/")));
        assert!(is_as_safe(&url("http://a/t"), &url("http://b/v2/")));
        assert!(!is_as_safe(&url("file:///t"), &url("http://b/v2/")));
    }
}
