//! Images in archives, from others and for others: OCI image layouts (image-spec,
//! image-layout.md) and what `docker save` and `podman save` write, as tar streams.
//!
//! Nothing of an archive is trusted. Its members are read in whatever order they come, each into a
//! file of the store's `incoming/` and none into memory; no name in it is ever a path on the host.
//! When all of it has been read and its images are understood and complete, their content gets its
//! place in the store, and last, at once, their names. So an archive that is refused leaves nothing,
//! and a crash or a disk that fails in the very end leaves at most content that nothing names, which
//! the next pruning removes.

mod docker;
mod error;
mod layout;
mod load;
mod members;
mod save;
#[cfg(test)]
mod tests;

pub use error::LoadError;
pub use load::{LoadOptions, LoadedImage};
pub use save::{Archive, ArchiveFormat, ImageToSave, SaveError};
