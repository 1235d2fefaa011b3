//! What can be done with images: one verb a file. Which machines use an image is known here and
//! nowhere below.

mod exchange;
mod http;
mod inspect;
mod list;
mod pull;
mod push;
mod remove;
mod tag;
mod uses;

pub use http::routes;
pub use pull::platform;
