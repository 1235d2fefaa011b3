//! The per-user service: images, machines, and the recipes create, boot, stop, delete.
//!
//! What is on disk and which runtimes answer is the truth; the service remembers nothing else.
//! It may be killed at any moment: machines go on, and the next service finds them.

mod activity;
mod caller;
mod configuration;
mod error;
mod host;
mod http;
mod images;
mod locks;
mod process;
mod recipes;
mod registries;
mod request;
mod snapshot;
mod system;

use container_image::ImageStore;
use container_machine::{Bundles, World};

pub use configuration::{Configuration, ConfigurationError};
pub use process::{build_id, service_main};

/// What every request works with.
#[derive(Debug)]
struct Service {
    world: World,
    bundles: Bundles,
    images: ImageStore,
    locks: locks::Locks,
}
