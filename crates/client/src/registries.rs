//! What can be asked of the service about registries: see [`container_api`].

use container_api::{CallerEnvironment, ListLogins, LogIn, LogOut, LoggedOut, Login, Logins};
use hyper::Method;

use crate::{Client, ClientError};

impl Client {
    /// Checks credentials and keeps them. Says where.
    pub async fn log_in(&self, request: &LogIn) -> Result<Login, ClientError> {
        self.ask(Method::POST, "/v1/registries/login", request)
            .await
    }

    /// Forgets the credentials for a registry.
    pub async fn log_out(&self, server: &str) -> Result<LoggedOut, ClientError> {
        let request = LogOut {
            server: server.to_owned(),
            environment: CallerEnvironment::of_this_process(),
        };
        self.ask(Method::POST, "/v1/registries/logout", &request)
            .await
    }

    /// All credentials that there are.
    pub async fn logins(&self) -> Result<Logins, ClientError> {
        let request = ListLogins {
            environment: CallerEnvironment::of_this_process(),
        };
        self.ask(Method::POST, "/v1/registries/logins", &request)
            .await
    }
}
