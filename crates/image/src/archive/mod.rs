//! Image archives: loading and saving OCI image layouts (image-spec, image-layout.md) and archives
//! of `docker save` and `podman save`, as tar streams.
//!
//! Nothing in a loaded archive is trusted. Members are read in the order in which they come, each
//! into a file in the store's `incoming/`, never into memory. No name in an archive is used as a
//! path on the host. When the whole archive has been read and its images are valid and complete,
//! their blobs are moved into the store, and then all references are recorded at once. So a refused
//! archive leaves nothing. A crash or a disk failure at the end leaves at most unreferenced blobs,
//! which the next pruning removes.
//!
//! | module | responsibility |
//! |---|---|
//! | `load` | loading: the steps, and the check that images are complete |
//! | `members` | the archive's members by name and digest |
//! | `layout`, `docker` | the two lists of images: `index.json`, `manifest.json` |
//! | `loaded` | the images that were found |
//! | `save` | saving |

mod docker;
mod error;
mod layout;
mod load;
mod loaded;
mod members;
mod save;
#[cfg(test)]
mod tests;

pub use error::LoadError;
pub use load::LoadOptions;
pub use loaded::LoadedImage;
pub use save::{ArchiveFormat, ImageArchive, ImageToSave, SaveError};
