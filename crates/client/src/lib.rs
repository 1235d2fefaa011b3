//! Client side of the program: calls the service, runs commands in machines, and makes machines
//! resolvable by name on the host.
//!
//! [`Client::connect`] returns a client only after a service of the caller's own build has replied,
//! and starts the service if none is running. Each request has a connection of its own, so dropping
//! the future of a request cancels it: the service notices the closed connection.
//!
//! Commands do not go through the service. [`exec`] speaks to the machine's runtime process, so
//! running commands survive a restart of the service. [`host_names`], [`doctor`] and [`report`]
//! need neither.
//!
//! | module | responsible for |
//! |---|---|
//! | `start`, `service_environment` | finding, starting and replacing the service |
//! | `http` | one request: JSON, or a stream of progress lines and a result |
//! | `machines`, `images`, `registries` | one method for each request of the API |
//! | `archive` | archives as bodies of requests and replies |
//! | [`exec`] | commands in a running machine |
//! | [`doctor`], [`report`] | checks of the host, and what a bug report needs |
//! | [`host_names`] | systemd-resolved and `/etc/hosts` |
//!
//! ```no_run
//! # async fn list() -> Result<(), container_client::ClientError> {
//! use container_client::Client;
//!
//! let client = Client::connect("build 1").await?;
//! for machine in client.machines().await?.machines {
//!     println!("{}", machine.id);
//! }
//! # Ok(())
//! # }
//! ```

mod archive;
mod descriptors;
pub mod doctor;
mod error;
pub mod exec;
pub mod host_names;
mod http;
mod images;
mod machines;
mod registries;
pub mod report;
mod service_environment;
pub mod sockets;
mod start;

pub use error::ClientError;

use container_machine::Directories;

/// Client of a running service.
#[derive(Debug, Clone)]
pub struct Client {
    directories: Directories,
}

impl Client {
    /// Connects to the service of the environment's [`Directories`], and starts it if it is not
    /// running. A service of another build than `build` is asked to end, and replaced.
    pub async fn connect(build: &str) -> Result<Client, ClientError> {
        let client = Client {
            directories: Directories::from_environment()?,
        };
        let Directories {
            data,
            config,
            runtime,
        } = &client.directories;
        tracing::debug!(
            "data in {}, configuration in {}, sockets in {}",
            data.display(),
            config.display(),
            runtime.display()
        );
        client.ensure_service(build).await?;
        Ok(client)
    }
}
