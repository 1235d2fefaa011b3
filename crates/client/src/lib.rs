//! What the commands call: reaches the service, starting it when it is not there.
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

mod descriptors;
mod error;
pub mod exec;
mod http;
mod images;
mod machines;
mod registries;
mod start;

pub use error::ClientError;

use container_machine::World;

/// A service that answers.
#[derive(Debug, Clone)]
pub struct Client {
    world: World,
}

impl Client {
    /// Reaches the service of the environment's [`World`], and starts it when it is not there.
    /// One of another build than `build` is asked to make room.
    pub async fn connect(build: &str) -> Result<Client, ClientError> {
        let client = Client {
            world: World::of_environment()?,
        };
        let World {
            data,
            config,
            runtime,
        } = &client.world;
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
