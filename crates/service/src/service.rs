//! The state that all requests share.

use container_image::ImageStore;
use container_machine::{Bundles, Directories, DiskReserve};

use crate::{
    configuration::{Configuration, ConfigurationError},
    locks::Locks,
};

/// The stores of images and machines, and the locks of the requests in progress.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) directories: Directories,
    pub(crate) bundles: Bundles,
    pub(crate) images: ImageStore,
    pub(crate) reserve: DiskReserve,
    pub(crate) locks: Locks,
}

impl Service {
    /// Reads `config.toml`. It is read for each request, so that changes apply at once.
    pub(crate) fn configuration(&self) -> Result<Configuration, ConfigurationError> {
        Configuration::read(&self.directories.config)
    }

    /// Reads `config.toml` and refuses values that this host cannot provide.
    pub(crate) fn checked_configuration(&self) -> Result<Configuration, ConfigurationError> {
        let configuration = self.configuration()?;
        configuration.check()?;
        Ok(configuration)
    }
}
