//! Settings for the machines that are made from an image.
//!
//! The author attaches them to the image as an OCI referrer (image-spec, manifest.md, "subject"):
//! an artifact with a layer of one or both of these media types.
//!
//! | media type | content |
//! |---|---|
//! | `application/vnd.apple.container.machine.config.v1+json` | `{"schemaVersion": 1, "shell": "/bin/zsh"}`; `shell` is optional |
//! | `application/vnd.apple.container.machine.setup.v1+sh` | script that sets up the machine's user |
//!
//! - [`config`] parses the content;
//! - [`artifact`] recognizes and chooses the artifact;
//! - [`fetch`] downloads it, [`stored`] reads it from the store.

mod artifact;
mod config;
mod error;
mod fetch;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod stored;
#[cfg(test)]
mod tests;

pub use config::MachineSettings;
pub use error::InvalidSettings;

pub(crate) use stored::StoredSettingsError;
