//! What can be done with images: one verb a file. Which machines use an image is known here and
//! nowhere below.

mod http;
mod list;
mod pull;
mod push;
mod uses;

pub use http::routes;
pub use pull::platform;
