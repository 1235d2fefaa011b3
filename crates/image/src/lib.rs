//! OCI images: references, registries, the image store, ext4 bases.
//!
//! The way of an image, each step a room here:
//!
//! 1. a [`Reference`] and a [`Platform`] say which image is meant;
//! 2. [`ImageStore::pull`] asks the registry, and fetches into the store what is not there, every
//!    byte checked against its digest;
//! 3. [`ImageStore::base_of_size`] writes the layers into an ext4 file system, once for each image
//!    and size.
//!
//! [`ImageStore::pull_to_base`] does both at once: layers are written while they arrive.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use container_image::{
//!     DEFAULT_SIZE, ImageError, ImageStore, Platform, PullOptions, Reference,
//! };
//!
//! # async fn example() -> Result<(), ImageError> {
//! let store = ImageStore::open(Path::new("images"))?;
//! let reference = Reference::parse("127.0.0.1:5000/debian-systemd:12", "docker.io")?;
//! let options = PullOptions::default();
//! let platform = Platform::host();
//! let (image, disk) = store
//!     .pull_to_base(&reference, &platform, &options, DEFAULT_SIZE, &|_| {})
//!     .await?;
//! # Ok(())
//! # }
//! ```

mod commit;
mod credentials;
mod descriptor;
mod digest;
mod environment;
mod error;
mod exchange;
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod local;
mod manifest;
mod media_type;
mod platform;
mod progress;
mod pull;
mod push;
mod reference;
mod registry;
mod settings;
mod store;
mod tar;
mod unpack;

pub use commit::{
    Change, CommitError, CommitOptions, InvalidChange, LayerFormat, write_listing_of_base,
};
pub use credentials::{
    AuthFileError, Credential, HelperError, KeepError, LoggedOut, Login, Place, Problem, Secret,
    logins,
};
pub use descriptor::Descriptor;
pub use digest::{Digest, InvalidDigest};
pub use environment::Environment;
pub use error::ImageError;
pub use exchange::{
    Archive, ArchiveFormat, ImageToSave, LoadError, LoadOptions, LoadedImage, SaveError,
};
pub use image::Image;
pub use local::LocalStore;
pub use manifest::HistoryStep;
pub use platform::{InvalidPlatform, Platform};
pub use progress::{Layers, Listener, Progress, Step};
pub use pull::PullOptions;
pub use push::{PushError, PushOptions};
pub use reference::{Reference, ReferenceError};
pub use registry::{
    Access, AskedBy, FetchError, HostSettings, InvalidHost, InvalidScheme, LoginError, Mirror,
    Registries, RegistryHost, Scheme, check_authorities, log_in, log_out,
};
pub use settings::MachineSettings;
pub use store::{
    Alone, Base, Freed, Hold, ImageStore, Meant, Needed, NotMeant, StoreError, StoredImage,
    Variant, references,
};
pub use tar::TarError;
pub use unpack::{DEFAULT_SIZE, Limits, TooMuch, UnpackError};
