//! Credentials for registries: checked, kept, listed and forgotten.

use container_api::{ListLogins, LogIn, LogOut, LoggedOut, Login, Logins};
use container_image::{Access, Environment, RegistryHost, Scheme, Secret, log_in, log_out, logins};

use crate::{Service, configuration::Configuration, error::ServiceError};

impl Service {
    /// Checks credentials at their registry, and keeps them.
    pub(crate) async fn log_in(&self, request: LogIn) -> Result<Login, ServiceError> {
        let configuration = self.configuration()?;
        let host: RegistryHost = request.server.parse()?;
        let scheme: Option<Scheme> = request.scheme.map(|word| word.parse()).transpose()?;
        let environment: Environment = request.environment.into_variables().into();
        let registries = configuration.registries(&self.world);
        let access = Access {
            scheme: scheme.unwrap_or_default(),
            environment: &environment,
            registries: &registries,
        };
        let password = Secret::new(request.password.into_secret());
        let own = self.world.credentials();
        let place = log_in(&host, &request.username, &password, &own, access).await?;
        Ok(Login {
            kept_in: place.to_string(),
            server: host.to_string(),
            username: request.username,
        })
    }

    /// Forgets what is kept for a registry.
    pub(crate) async fn log_out(&self, request: LogOut) -> Result<LoggedOut, ServiceError> {
        let configuration = self.configuration()?;
        let host: RegistryHost = request.server.parse()?;
        let environment: Environment = request.environment.into_variables().into();
        let registries = configuration.registries(&self.world);
        let access = Access {
            scheme: Scheme::Auto,
            environment: &environment,
            registries: &registries,
        };
        let done = log_out(&host, &self.world.credentials(), access).await?;
        let left = done.left.iter().map(ToString::to_string).collect();
        match done.removed.is_empty() {
            true => Err(ServiceError::NotLoggedIn { host, left }),
            false => Ok(LoggedOut {
                server: host.to_string(),
                left,
            }),
        }
    }

    /// All credentials that there are.
    pub(crate) async fn logins(&self, request: ListLogins) -> Result<Logins, ServiceError> {
        let configuration = self.configuration()?;
        let environment: Environment = request.environment.into_variables().into();
        let registries = configuration.registries(&self.world);
        let (logins, problems) = logins(Access {
            scheme: Scheme::Auto,
            environment: &environment,
            registries: &registries,
        })
        .await;
        let logins = logins.into_iter().map(|login| Login {
            kept_in: login.place.to_string(),
            server: login.server,
            username: login.username,
        });
        Ok(Logins {
            logins: logins.collect(),
            broken: problems.iter().map(ToString::to_string).collect(),
        })
    }

    fn configuration(&self) -> Result<Configuration, ServiceError> {
        let configuration = Configuration::read(&self.world.config)?;
        configuration.check()?;
        Ok(configuration)
    }
}
