//! Differences between an image and a machine made from it, as the tar archive of a layer
//! (image-spec, layer.md, "Representing Changes").
//!
//! The host has the machine's base image; the guest has the machine's current disk. The host sends
//! a [listing](write_listing) of the base, the guest [packs](pack) the differences, and the host
//! reads them with an [`ArchiveReader`]. Both directions are streams: neither side holds more than
//! the names of a few directories in memory.
//!
//! An entry is unchanged if the base has the same name with the same inode number and the same
//! change time (`st_ctime`). The kernel sets that time at every change of an inode's contents,
//! attributes or links, and no program can set it. The inode number is compared as well because of
//! moved directories: in an image whose files all have one timestamp, a directory that replaced
//! another one would look unchanged.
//!
//! | left out | because |
//! |---|---|
//! | `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`, `/var/host-services` | written at each boot |
//! | `/etc/machine-id` | replaced by an empty file, so that the next boot creates an id but is not a first boot (machine-id(5)) |
//! | `/var/lib/dbus/machine-id`, unless it is a link | likewise |
//! | `/var/lib/systemd/random-seed`, `/var/lib/systemd/credential.secret` | must be unique to a machine |
//! | files in `/var/log/journal` | belong to the machine with that id |
//! | the index of the kernel's modules in `/lib/modules`, unless a package was installed over it | written by the agent |
//! | swap files | contain memory |
//! | sockets | cannot be archived |
//! | mounted file systems | only the disk is read, including what mounts hide |
//!
//! ```
//! use std::{fs, io::Read, os::fd::AsFd, os::unix::fs::MetadataExt};
//!
//! use container_changes::{ArchiveReader, BaseEntry, UnixTime, pack, write_listing};
//!
//! let disk = tempfile::tempdir()?;
//! fs::write(disk.path().join("new"), "text")?;
//! // The base had an empty root directory.
//! let root = BaseEntry {
//!     name: Vec::new(),
//!     inode: fs::metadata(disk.path())?.ino(),
//!     changed: UnixTime { seconds: 0, nanoseconds: 0 },
//!     is_directory: true,
//! };
//! let mut listing = Vec::new();
//! write_listing(root, &mut |_| Ok(Vec::new()), &mut listing)?;
//!
//! let mut stream = Vec::new();
//! pack(fs::File::open(disk.path())?.as_fd(), listing.as_slice(), &mut stream)?;
//! let mut archive = Vec::new();
//! ArchiveReader::new(stream.as_slice(), |_| ()).read_to_end(&mut archive)?;
//! assert!(archive.windows(4).any(|window| window == b"text"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod archive;
mod disk;
mod error;
mod excluded;
mod listing;
mod member;
mod walk;

pub use archive::{ArchiveReader, send_failure};
pub use error::ChangesError;
pub use excluded::MODULE_INDEX_MARKER;
pub use listing::{BaseEntry, UnixTime, write_listing};
pub use walk::pack;
