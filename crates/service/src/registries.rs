//! Credentials for registries: login, logout and their list.

use container_api::{
    FailureKind, ListLoginsRequest, LoggedOut, Login, LoginRequest, Logins, LogoutRequest,
};
use container_image::{
    Access, Environment, InvalidHost, InvalidScheme, LoginError, RegistryHost, Scheme, Secret,
    list_logins, log_in, log_out,
};

use crate::{configuration::ConfigurationError, failure::RequestError, service::Service};

/// Credentials cannot be checked or stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogInError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Host(#[from] InvalidHost),
    #[error(transparent)]
    Scheme(#[from] InvalidScheme),
    #[error(transparent)]
    Login(#[from] LoginError),
}

impl RequestError for LogInError {
    fn kind(&self) -> FailureKind {
        match self {
            LogInError::Host(_)
            | LogInError::Scheme(_)
            | LogInError::Login(LoginError::InvalidPassword { .. }) => FailureKind::Invalid,
            LogInError::Configuration(_) | LogInError::Login(_) => FailureKind::Failed,
        }
    }
}

/// Credentials cannot be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogOutError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Host(#[from] InvalidHost),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("not logged in to {host}{}", remaining_text(.remaining))]
    NotLoggedIn {
        host: RegistryHost,
        /// Files with credentials of other programs.
        remaining: Vec<String>,
    },
}

impl RequestError for LogOutError {
    fn kind(&self) -> FailureKind {
        match self {
            LogOutError::NotLoggedIn { .. } => FailureKind::NotFound,
            LogOutError::Host(_) | LogOutError::Login(LoginError::InvalidPassword { .. }) => {
                FailureKind::Invalid
            }
            LogOutError::Configuration(_) | LogOutError::Login(_) => FailureKind::Failed,
        }
    }
}

fn remaining_text(remaining: &[String]) -> String {
    if remaining.is_empty() {
        return String::new();
    }
    format!(
        " with this program (credentials in {} can be removed with docker or podman)",
        remaining.join(", ")
    )
}

impl Service {
    /// Checks credentials at their registry, and stores them.
    pub(crate) async fn log_in(&self, request: LoginRequest) -> Result<Login, LogInError> {
        let configuration = self.checked_configuration()?;
        let host: RegistryHost = request.server.parse()?;
        let scheme: Option<Scheme> = request.scheme.map(|scheme| scheme.parse()).transpose()?;
        let environment: Environment = request.environment.into_variables().into();
        let registries = configuration.registries(&self.directories);
        let access = Access {
            scheme: scheme.unwrap_or_default(),
            environment: &environment,
            registries: &registries,
        };
        let password = Secret::new(request.password.into_secret());
        let file = self.directories.credentials();
        let place = log_in(&host, &request.username, &password, &file, access).await?;
        Ok(Login {
            kept_in: place.to_string(),
            server: host.to_string(),
            username: request.username,
        })
    }

    /// Removes the credentials that this program stored for a registry.
    pub(crate) async fn log_out(&self, request: LogoutRequest) -> Result<LoggedOut, LogOutError> {
        let configuration = self.checked_configuration()?;
        let host: RegistryHost = request.server.parse()?;
        let environment: Environment = request.environment.into_variables().into();
        let registries = configuration.registries(&self.directories);
        let access = Access {
            scheme: Scheme::Auto,
            environment: &environment,
            registries: &registries,
        };
        let done = log_out(&host, &self.directories.credentials(), access).await?;
        let remaining = done.remaining.iter().map(ToString::to_string).collect();
        if done.removed.is_empty() {
            return Err(LogOutError::NotLoggedIn { host, remaining });
        }
        Ok(LoggedOut {
            server: host.to_string(),
            left: remaining,
        })
    }

    /// Lists all credentials for registries, also those of other programs.
    pub(crate) async fn logins(
        &self,
        request: ListLoginsRequest,
    ) -> Result<Logins, ConfigurationError> {
        let configuration = self.checked_configuration()?;
        let environment: Environment = request.environment.into_variables().into();
        let registries = configuration.registries(&self.directories);
        let (logins, problems) = list_logins(Access {
            scheme: Scheme::Auto,
            environment: &environment,
            registries: &registries,
        })
        .await;
        let logins = logins.into_iter().map(|login| Login {
            kept_in: login.store.to_string(),
            server: login.server,
            username: login.username,
        });
        Ok(Logins {
            logins: logins.collect(),
            broken: problems.iter().map(ToString::to_string).collect(),
        })
    }
}
