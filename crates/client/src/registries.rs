//! Requests about registries (see [`container_api`]).

use container_api::{
    CallerEnvironment, ListLoginsRequest, LoggedOut, Login, LoginRequest, Logins, LogoutRequest,
};
use hyper::Method;

use crate::{Client, ClientError};

impl Client {
    /// Verifies credentials with their registry, and stores them. Returns where they are stored.
    pub async fn log_in(&self, request: &LoginRequest) -> Result<Login, ClientError> {
        self.request(Method::POST, "/v1/registries/login", request)
            .await
    }

    /// Removes the credentials for a registry.
    pub async fn log_out(&self, server: &str) -> Result<LoggedOut, ClientError> {
        let request = LogoutRequest {
            server: server.to_owned(),
            environment: CallerEnvironment::from_process(),
        };
        self.request(Method::POST, "/v1/registries/logout", &request)
            .await
    }

    /// Returns all credentials that the caller has, without passwords.
    pub async fn logins(&self) -> Result<Logins, ClientError> {
        let request = ListLoginsRequest {
            environment: CallerEnvironment::from_process(),
        };
        self.request(Method::POST, "/v1/registries/logins", &request)
            .await
    }
}
