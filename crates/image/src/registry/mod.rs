//! Client of OCI registries (distribution-spec v1.1). No other module speaks to a registry.
//!
//! It is written directly on top of reqwest. The crate `oci-client` reads manifests of any length
//! into memory, so a hostile registry could exhaust it.
//!
//! - [`client`]: requests to one repository, with retries while the registry is busy;
//! - [`mirrors`], [`referrers`], [`blob`], [`upload`]: further requests of the same client;
//! - [`access`], [`scheme`], [`host`]: what the caller and the configuration say about registries;
//! - [`probe`]: which scheme a registry of a private network uses;
//! - [`http`], [`proxy`], [`certificates`]: HTTP clients for them;
//! - [`session`], [`challenge`], [`authenticate`], [`login`]: authentication;
//! - [`retry`]: retry limits and backoff.
//!
//! Nothing here knows the image store: `pull/` and `push/` connect the two.

mod access;
mod authenticate;
mod blob;
mod certificates;
mod challenge;
mod client;
mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod host;
mod http;
mod login;
mod mirrors;
mod probe;
mod proxy;
mod referrers;
mod retry;
mod scheme;
mod session;
#[cfg(test)]
mod tests;
mod upload;

pub use access::{Access, HostSettings, Mirror, Registries};
pub use certificates::{CertificateFileError, check_ca_file};
pub use error::{RegistryError, Requester};
pub use host::{InvalidHost, RegistryHost};
pub use login::{LoginError, log_in, log_out};
pub use scheme::{InvalidScheme, Scheme};

pub(crate) use client::RegistryClient;
pub(crate) use error::{append_problems, root_cause};
pub(crate) use http::install_crypto_provider;
pub(crate) use referrers::Referrer;
pub(crate) use retry::{MAX_RETRIES, backoff};
