//! The service's HTTP interface, see [`container_api`]: routes, request bodies and replies. It
//! decides nothing itself.

mod images;
mod machines;
mod refusal;
mod registries;
mod reply;
mod request;
mod router;
mod shared;
mod system;

pub(crate) use router::router;
pub(crate) use shared::Shared;
