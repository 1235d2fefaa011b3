//! Request of a pull.

use crate::{
    Access, Environment, ImageStore, Listener, LocalStore, Platform, Reference, Registries, Scheme,
    Step,
};

/// Options of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOptions {
    /// Scheme of the registry.
    pub scheme: Scheme,
    /// Layers that are downloaded concurrently. 0 counts as 1.
    pub max_concurrent_downloads: usize,
    /// Environment of the caller.
    pub environment: Environment,
    /// Configuration of the registries.
    pub registries: Registries,
    /// Permitted sources of the image.
    pub sources: ImageSources,
}

impl Default for PullOptions {
    fn default() -> PullOptions {
        PullOptions {
            scheme: Scheme::Auto,
            max_concurrent_downloads: 3,
            environment: Environment::default(),
            registries: Registries::default(),
            sources: ImageSources::Registry,
        }
    }
}

/// Permitted sources of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSources {
    /// Only the registry of the reference.
    Registry,
    /// First this host: the store, if the image was tagged, loaded, built or committed there under
    /// this name, then these stores of other programs. Then the registry.
    LocalFirst(Vec<LocalStore>),
}

/// Pull of one image.
pub(super) struct Pull<'a> {
    pub(super) store: &'a ImageStore,
    pub(super) reference: &'a Reference,
    pub(super) platform: &'a Platform,
    pub(super) options: &'a PullOptions,
    pub(super) listener: Listener<'a>,
}

impl Pull<'_> {
    pub(super) fn access(&self) -> Access<'_> {
        Access {
            scheme: self.options.scheme,
            environment: &self.options.environment,
            registries: &self.options.registries,
        }
    }

    pub(super) fn report(&self, step: Step) {
        (self.listener)(step.into());
    }
}
