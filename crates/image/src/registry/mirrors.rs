//! Mirrors: places that have the same images as a registry, and are asked before it. What one lacks
//! or fails at, the next one gives.

use std::sync::atomic::Ordering;

use reqwest::{Client, RequestBuilder, Response, Url};

use super::{Access, FetchError, Registry, RegistryHost};
use crate::Reference;

impl Registry {
    /// The repository at the registry's mirrors, in their order.
    pub(super) fn mirrors(reference: &Reference, access: Access<'_>) -> Vec<Registry> {
        let mirrors = access.mirrors_of(&RegistryHost::of(reference)).iter();
        let usable = mirrors.filter_map(|mirror| {
            let repository = mirror.repository(reference.repository());
            let usable =
                Registry::to_pull(&mirror.host, &repository, reference, access.of_mirror());
            match usable {
                Ok(mirror) => Some(mirror),
                Err(error) => {
                    tracing::debug!("the mirror {} is passed over: {error}", mirror.host);
                    None
                }
            }
        });
        usable.collect()
    }

    /// From the first mirror that has it. One that cannot be reached is not tried again.
    pub(super) async fn at_mirrors(
        &self,
        path: &str,
        ask: &impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Option<Response> {
        for mirror in self.mirrors_that_are_up() {
            match mirror.get_here(path, ask).await {
                Ok(response) => return Some(response),
                Err(error) => mirror.pass_over(&error),
            }
        }
        None
    }

    pub(super) fn mirrors_that_are_up(&self) -> impl Iterator<Item = &Registry> {
        let is_up = |mirror: &&Registry| !mirror.is_down.load(Ordering::Relaxed);
        self.mirrors.iter().filter(is_up)
    }

    /// Of a mirror: what is wanted is not to be had from it.
    pub(super) fn pass_over(&self, error: &FetchError) {
        tracing::debug!("the mirror {} is passed over: {error}", self.name);
        let is_down = matches!(error, FetchError::Unreachable { .. });
        self.is_down.store(is_down, Ordering::Relaxed);
    }
}
