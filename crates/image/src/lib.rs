//! OCI images: references, registries, the image store, ext4 bases.
//!
//! An image gets onto a disk in three steps:
//!
//! 1. A [`Reference`] and a [`Platform`] name it.
//! 2. [`ImageStore::pull`] asks the registry and fetches the missing blobs into the store. The
//!    digest of every blob is verified.
//! 3. [`ImageStore::pull_to_base`] also unpacks the layers, while they arrive, into a base: an ext4
//!    file system, made once for each image and size.
//!
//! # Contract
//!
//! - The store is an OCI image layout. Several processes may use it at the same time, and a crash
//!   leaves it usable (`store`).
//! - Everything that comes from a registry or an archive is untrusted. It is limited in size before
//!   it is read into memory, and nothing of it is used as a path on the host.
//! - The library needs no privileges and reads no environment variables of its own process; callers
//!   pass an [`Environment`].
//!
//! # Modules
//!
//! | module | responsibility |
//! |---|---|
//! | `reference`, `platform`, `digest`, `descriptor`, `media_type` | names of images and blobs |
//! | `manifest` | parsers of manifests, indexes and configurations |
//! | `registry`, `credentials` | client of registries, authentication |
//! | `store` | image store on disk: blobs, names, locks, removal |
//! | `pull`, `push` | transfers between registry and store |
//! | `settings` | machine settings that are attached to images |
//! | `local` | images of Docker, podman and buildah on this host |
//! | `archive` | loading and saving of image archives |
//! | `unpack`, `tar` | layers to ext4 bases |
//! | `commit` | new images from the changes of a machine |
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//!
//! use container_image::{
//!     ImageError, ImageStore, Platform, PullOptions, Reference,
//! };
//!
//! # async fn example() -> Result<(), ImageError> {
//! let store = ImageStore::open(Path::new("images"))?;
//! let reference = Reference::parse("127.0.0.1:5000/debian-systemd:12", "docker.io")?;
//! let options = PullOptions::default();
//! let platform = Platform::host();
//! let (image, base) = store
//!     .pull_to_base(&reference, &platform, &options, 512 << 30, &|_| {})
//!     .await?;
//! println!("{} is unpacked in {}", image.reference, base.display());
//! # Ok(())
//! # }
//! ```

mod archive;
mod commit;
mod credentials;
mod descriptor;
mod digest;
mod environment;
mod error;
mod fill;
#[cfg(fuzzing)]
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
#[cfg(test)]
mod test_registry;
mod unpack;

pub use archive::{
    ArchiveFormat, ImageArchive, ImageToSave, LoadError, LoadOptions, LoadedImage, SaveError,
};
pub use commit::{
    Change, CommitError, CommitOptions, InvalidChange, InvalidLayerFormat, LayerFormat,
    write_listing_of_base,
};
pub use credentials::{
    AuthFileError, CredentialReadError, CredentialStore, CredentialWriteError, HelperError,
    LogoutOutcome, RegistryLogin, Secret, list_logins,
};
pub use descriptor::Descriptor;
pub use digest::{Digest, InvalidDigest};
pub use environment::Environment;
pub use error::ImageError;
pub use image::Image;
pub use local::{LocalStore, LocalStoreError};
pub use manifest::{HistoryStep, ImageConfig, ManifestError};
pub use platform::{InvalidPlatform, Platform};
pub use progress::{LayerCount, Listener, Progress, Step};
pub use pull::{ImageSources, PullError, PullOptions};
pub use push::{PushError, PushOptions};
pub use reference::{Reference, ReferenceError};
pub use registry::{
    Access, CertificateFileError, HostSettings, InvalidHost, InvalidScheme, LoginError, Mirror,
    Registries, RegistryError, RegistryHost, Requester, Scheme, check_ca_file, log_in, log_out,
};
pub use settings::{InvalidSettings, MachineSettings};
pub use store::{
    Base, ExclusiveGuard, Freed, GcRoots, ImageStore, ResolveError, Resolved, SharedGuard,
    StoreError, StoreUsage, StoredImage, Variant, references,
};
pub use tar::TarError;
pub use unpack::{LimitExceeded, Limits, UnpackError};
