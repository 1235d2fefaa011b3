//! Answers to authentication challenges: tokens of a token service (distribution, "Token
//! Authentication Specification" and "OAuth2 Token Authentication"), or name and password.

use std::collections::BTreeSet;

use reqwest::{RequestBuilder, Response, Url, header::WWW_AUTHENTICATE};
use serde::Deserialize;

use super::{
    RegistryError,
    challenge::{Challenge, token_url},
    client::RegistryClient,
    error,
    http::HttpClientKind,
    scheme::{ResolvedScheme, is_loopback},
    session::Authorization,
};
use crate::credentials::{Credential, Secret};

/// Size limit of a token service's response.
const LARGEST_TOKEN_RESPONSE: u64 = 64 << 10;

/// Name of this program at token services.
const CLIENT_ID: &str = "container";

/// Whether nobody else can read what is sent to this address.
fn keeps_secrets(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    // An IPv6 address is in brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    url.scheme() == "https" || is_loopback(host)
}

#[derive(Deserialize)]
pub(super) struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
}

impl TokenResponse {
    pub(super) fn parse(body: &[u8]) -> Result<TokenResponse, RegistryError> {
        // The parser's own message may quote the token.
        serde_json::from_slice(body).map_err(|error| RegistryError::InvalidResponse {
            what: "token",
            reason: format!("line {}, column {}", error.line(), error.column()),
        })
    }

    /// Returns the token. Token services give it one of two names, or both.
    pub(super) fn into_token(self) -> Option<Secret> {
        self.token.or(self.access_token).map(Secret::new)
    }
}

impl RegistryClient {
    /// Obtains a new authorization after the registry refused `previous`. Requests that are refused
    /// at the same time share it. `None` when there is no other authorization to try.
    pub(super) async fn reauthorize(
        &self,
        response: &Response,
        previous: Option<Authorization>,
    ) -> Result<Option<Authorization>, RegistryError> {
        let mut current = self.session.lock_authorization().await;
        if *current != previous {
            // Another request has replaced it meanwhile.
            return Ok(current.clone());
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let headers = headers.filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = headers.flat_map(Challenge::parse_header).collect();
        let new = match Challenge::choose(challenges, self.base_url()) {
            Some(Challenge::Bearer {
                realm,
                service,
                scopes,
            }) => self.request_token(realm, service, scopes).await?,
            Some(Challenge::Basic) => match self.credential().await? {
                Some(Credential::Password { username, password }) => Some(Authorization::Basic {
                    username: username.clone(),
                    password: password.clone(),
                }),
                _ => None,
            },
            None => None,
        };
        if new == previous {
            return Ok(None);
        }
        current.clone_from(&new);
        Ok(new)
    }

    /// Returns the credentials for the registry, if there are any.
    async fn credential(&self) -> Result<Option<&Credential>, RegistryError> {
        let credential = self.session.credential(&self.host, self.access()).await;
        if credential.is_some() && self.scheme() == ResolvedScheme::AnonymousHttp {
            return Err(RegistryError::Unencrypted {
                registry: self.name(),
            });
        }
        Ok(credential)
    }

    async fn request_token(
        &self,
        realm: Url,
        service: Option<String>,
        requested: BTreeSet<String>,
    ) -> Result<Option<Authorization>, RegistryError> {
        let scopes = self.token_scopes(requested);
        let credential = self.credential().await?;
        if credential.is_some()
            && self.scheme() == ResolvedScheme::LoopbackHttp
            && !keeps_secrets(&realm)
        {
            return Err(RegistryError::UnencryptedTokenService {
                registry: self.name(),
                service: realm.to_string(),
            });
        }
        let http = HttpClientKind::Token.build(&self.host, &realm, self.access())?;
        let request = match credential {
            Some(Credential::IdentityToken(token)) => {
                let scope: Vec<&str> = scopes.iter().map(String::as_str).collect();
                let scope = scope.join(" ");
                http.post(realm).form(&[
                    ("grant_type", "refresh_token"),
                    ("service", service.as_deref().unwrap_or_default()),
                    ("client_id", CLIENT_ID),
                    ("scope", &scope),
                    ("refresh_token", token.reveal()),
                ])
            }
            Some(Credential::Password { username, password }) => {
                let mut url = token_url(realm, service.as_deref(), &scopes);
                url.query_pairs_mut().append_pair("account", username);
                http.get(url).basic_auth(username, Some(password.reveal()))
            }
            None => http.get(token_url(realm, service.as_deref(), &scopes)),
        };
        let response = self.send_token_request(request).await?;
        Ok(response.into_token().map(Authorization::Bearer))
    }

    /// Returns the scopes of the token to request: those of the challenge, with the session's own
    /// added for a push, whose later requests need more than the refused one, or if the challenge
    /// names none.
    fn token_scopes(&self, mut requested: BTreeSet<String>) -> BTreeSet<String> {
        let own = &self.session.scopes;
        let is_push = own.iter().any(|scope| scope.ends_with(":pull,push"));
        if !requested.is_empty() && !is_push {
            return requested;
        }
        let repository = |scope: &str| {
            scope
                .rsplit_once(':')
                .map(|(repository, _)| repository.to_owned())
        };
        let repositories: Vec<_> = own.iter().map(|scope| repository(scope)).collect();
        requested.retain(|scope| !repositories.contains(&repository(scope)));
        requested.extend(own.iter().cloned());
        requested
    }

    async fn send_token_request(
        &self,
        request: RequestBuilder,
    ) -> Result<TokenResponse, RegistryError> {
        let response = request.send().await.map_err(self.connection_error())?;
        let status = response.status();
        if status.is_client_error() && status != 429 {
            // 403 refuses the scopes, any other status the credentials.
            return Err(self.session.denial(&self.host, status != 403));
        }
        if !status.is_success() {
            return Err(RegistryError::Status {
                registry: self.name(),
                status: status.as_u16(),
                message: error::read_message(response).await,
            });
        }
        let body = self
            .read_body(response, "token", LARGEST_TOKEN_RESPONSE)
            .await?;
        TokenResponse::parse(&body)
    }
}
