//! The state of all routes.

use std::sync::Arc;

use crate::{activity::Activity, retirement::Retirement, service::Service};

/// The state of all routes.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Service whose verbs the routes call.
    pub(crate) service: Arc<Service>,
    /// Counter of the requests in progress.
    pub(crate) activity: Activity,
    /// End of this service at the request of a client, which starts one of its own build.
    pub(crate) retirement: Arc<Retirement>,
}
