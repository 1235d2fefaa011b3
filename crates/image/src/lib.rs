//! OCI images: references, registries, the image store, ext4 bases.
//!
//! The way of an image, each step a room here:
//!
//! 1. a [`Reference`] and a [`Platform`] say which image is meant;
//! 2. [`ImageStore::pull`] asks the registry, and fetches into the store what is not there, every
//!    byte checked against its digest;
//! 3. [`ImageStore::base`] writes the layers into an ext4 file system, once for each image.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use container_image::{ImageError, ImageStore, Platform, PullOptions, Reference};
//!
//! # async fn example() -> Result<(), ImageError> {
//! let store = ImageStore::open(Path::new("images"))?;
//! let reference = Reference::parse("127.0.0.1:5000/debian-systemd:12", "docker.io")?;
//! let options = PullOptions::default();
//! let image = store.pull(&reference, &Platform::host(), &options, &|_| {}).await?;
//! let disk = store.base(&image, &|_| {}).await?;
//! # Ok(())
//! # }
//! ```

mod commit;
mod descriptor;
mod digest;
mod environment;
mod error;
mod image;
mod manifest;
mod media_type;
mod platform;
mod progress;
mod pull;
mod reference;
mod registry;
mod settings;
mod store;
mod tar;
mod unpack;

pub use commit::{
    Change, CommitError, CommitOptions, InvalidChange, LayerFormat, write_listing_of_base,
};
pub use descriptor::Descriptor;
pub use digest::{Digest, InvalidDigest};
pub use environment::Environment;
pub use error::ImageError;
pub use image::Image;
pub use platform::{InvalidPlatform, Platform};
pub use progress::{Layers, Listener, Progress, Step};
pub use pull::PullOptions;
pub use reference::{Reference, ReferenceError};
pub use registry::{FetchError, InvalidScheme, Scheme};
pub use settings::MachineSettings;
pub use store::{ImageStore, StoreError};
pub use tar::TarError;
pub use unpack::{DEFAULT_SIZE, UnpackError};
