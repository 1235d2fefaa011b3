//! Mirrors: registries with the same images, which are asked before the registry itself. A request
//! that fails at one is sent to the next.

use super::{Access, RegistryHost, client::RegistryClient};
use crate::Reference;

impl RegistryClient {
    /// Creates clients of the same repository at the registry's mirrors, in their order. A mirror
    /// with an unusable configuration is skipped.
    pub(super) async fn mirror_clients(
        reference: &Reference,
        access: Access<'_>,
    ) -> Vec<RegistryClient> {
        let mut clients = Vec::new();
        for mirror in access.mirrors_of(&RegistryHost::from(reference)) {
            let repository = mirror.repository(reference.repository());
            match RegistryClient::for_pull(&mirror.host, &repository, access.for_mirror()).await {
                Ok(client) => clients.push(client),
                Err(error) => tracing::debug!("mirror {} skipped: {error}", mirror.host),
            }
        }
        clients
    }
}
