//! Authentication challenges of registries (RFC 9110, section 11; distribution, "Token
//! Authentication Specification").

use std::collections::BTreeSet;

use reqwest::Url;

/// Authentication that a registry requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of the token service `realm`.
    Bearer {
        realm: Url,
        service: Option<String>,
        /// Scopes that the token should have. Empty if the registry does not say.
        scopes: BTreeSet<String>,
    },
    /// User name and password.
    Basic,
}

impl Challenge {
    /// Parses the challenges of a WWW-Authenticate header. Unsupported ones are skipped.
    pub(super) fn parse_header(header: &str) -> Vec<Challenge> {
        let parsed = http_auth::parse_challenges(header).unwrap_or_default();
        parsed.iter().filter_map(Challenge::parse).collect()
    }

    fn parse(challenge: &http_auth::ChallengeRef<'_>) -> Option<Challenge> {
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |wanted: &str| {
            let found = challenge
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

    /// Chooses the challenge to answer: a token service, which never sees the registry's traffic,
    /// before a password. A token service that is less secure than the registry is not used.
    pub(super) fn choose(challenges: Vec<Challenge>, registry: &Url) -> Option<Challenge> {
        let mut best = None;
        for challenge in challenges {
            match &challenge {
                Challenge::Bearer { realm, .. } if is_as_secure(realm, registry) => {
                    return Some(challenge);
                }
                Challenge::Bearer { .. } => {}
                Challenge::Basic => best = Some(challenge),
            }
        }
        best
    }
}

/// Whether requests to the token service are encrypted if those to the registry are.
fn is_as_secure(service: &Url, registry: &Url) -> bool {
    match service.scheme() {
        "https" => true,
        "http" => registry.scheme() == "http",
        _ => false,
    }
}

/// Builds the URL of a token request.
pub(super) fn token_url(mut realm: Url, service: Option<&str>, scopes: &BTreeSet<String>) -> Url {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_bearer_challenge_names_the_token_service() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;
        let mut challenges = Challenge::parse_header(header);
        let Some(Challenge::Bearer {
            realm,
            service,
            scopes,
        }) = challenges.pop()
        else {
            panic!("{challenges:?}");
        };
        let url = token_url(realm, service.as_deref(), &scopes);
        assert_eq!(
            url.as_str(),
            "https://auth.docker.io/token?scope=repository%3Alibrary%2Falpine%3Apull&service=registry.docker.io"
        );
        assert_eq!(
            Challenge::parse_header(r#"BASIC realm="x""#),
            [Challenge::Basic]
        );
    }

    #[test]
    fn unsupported_challenges_are_skipped() {
        for header in ["", "Bearer", r#"Bearer realm="not a url""#, "Negotiate"] {
            assert_eq!(Challenge::parse_header(header), [], "{header}");
        }
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let both = r#"Basic realm="x", Bearer realm="https://a/t""#;
        let registry = url("https://b/v2/");
        let best = Challenge::choose(Challenge::parse_header(both), &registry);
        assert!(matches!(best, Some(Challenge::Bearer { .. })), "{best:?}");
        let insecure = r#"Basic realm="x", Bearer realm="http://a/t""#;
        let best = Challenge::choose(Challenge::parse_header(insecure), &registry);
        assert_eq!(best, Some(Challenge::Basic));
    }

    #[test]
    fn a_token_service_is_as_secure_as_the_registry() {
        assert!(!is_as_secure(&url("http://a/t"), &url("https://b/v2/")));
        assert!(is_as_secure(&url("https://a/t"), &url("https://b/v2/")));
        assert!(is_as_secure(&url("http://a/t"), &url("http://b/v2/")));
        assert!(!is_as_secure(&url("file:///t"), &url("http://b/v2/")));
    }
}
