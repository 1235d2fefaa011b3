//! The state of all routes.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::{activity::Activity, service::Service};

/// The state of all routes.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Service whose verbs the routes call.
    pub(crate) service: Arc<Service>,
    /// Counter of the requests in progress.
    pub(crate) activity: Activity,
    /// Notified when a client asks this service to end, so that it can start one of its own build.
    pub(crate) retire: Arc<Notify>,
}
