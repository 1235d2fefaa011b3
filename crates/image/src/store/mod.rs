//! The image store on disk: an OCI image layout (image-spec, image-layout.md) with three more
//! directories.
//!
//! | path | content |
//! |---|---|
//! | `oci-layout`, `index.json`, `blobs/sha256/<hex>` | as the specification says |
//! | `bases/<name>.ext4` | base images: ext4 file systems made from images |
//! | `incoming/` | files that are not complete yet |
//! | `locks/` | lock files |
//!
//! A blob gets its name only after all its bytes were hashed, matched the digest and were synced; a
//! base image only when it is finished. `index.json` is replaced atomically. A crash leaves at most
//! files in `incoming/` and `locks/`, which are removed by the next process that opens the store
//! while no other one uses it, and unreferenced blobs, which the next pruning removes. Any number
//! of processes may use a store at once: [`lock`] lists how their operations interact.
//!
//! [`ImageStore`] has its methods where their subject is:
//!
//! | module | methods |
//! |---|---|
//! | `directory` | `open`, `with_limits`, paths, lock files, atomic replacement |
//! | `lock` | `lock_shared`, `lock_exclusive` |
//! | `blobs` | existence, reading, writing and verification of blobs |
//! | `arrival` | progress of blobs that are being fetched |
//! | `index` | references and machine settings: all entries of `index.json` |
//! | `catalogue` | `images`: what is stored and how much disk it takes |
//! | `image_blobs` | all blobs that an image refers to |
//! | `imported_base` | `import_base` |
//! | `resolve` | `reference`: from a name or digest prefix to an image |
//! | `tag` | `tag` |
//! | `usage` | `usage` |
//! | `remove` | on [`ExclusiveGuard`]: `untag`, `remove`, `prune` |
//! | `crate::pull`, `crate::push`, `crate::settings`, `crate::local` | fetching and sending |
//! | `crate::archive` | `load`, `prepare_archive` |
//! | `crate::unpack` | base images |
//! | `crate::commit` | `commit` |

mod arrival;
mod blobs;
mod catalogue;
mod directory;
mod error;
mod image_blobs;
mod imported_base;
mod index;
mod lock;
mod lock_file;
mod remove;
mod resolve;
mod tag;
mod usage;

pub use catalogue::{Base, StoredImage, Variant};
pub use directory::ImageStore;
pub use error::StoreError;
pub use index::references;
pub use lock::{ExclusiveGuard, SharedGuard};
pub use remove::{Freed, GcRoots};
pub use resolve::{ResolveError, Resolved};
pub use usage::StoreUsage;

pub(crate) use arrival::{Arrival, Arrivals, ArrivingBlob, NotArrived};
pub(crate) use blobs::IncomingBlob;
pub(crate) use directory::sync_directory;
