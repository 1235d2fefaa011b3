//! Machine archives: a machine as one file, for another host or as a backup.
//!
//! A tar archive, compressed with zstd (RFC 8878) with a content checksum. Its members, in this
//! order:
//!
//! | member | content |
//! |---|---|
//! | `machine.json` | [`Description`] |
//! | `setup.sh` | set-up script; absent if the machine's image has none |
//! | `disk-….qcow2` | the files of the disk, each after the one that it is on |
//! | `base.ext4` | the image's base, a sparse file; absent if the disk is on none |
//! | `image.tar` | archive of the image; absent if the image is incomplete on the exporting host |
//!
//! The base is included although it can be made from the image, because another version of this
//! program may make another one, which the disk does not fit on.

mod description;
mod read;
mod write;

pub(crate) use description::{Description, DescriptionError, DiskLayer};
pub(crate) use read::{ArchiveReader, ReadError, finish, open};
pub(crate) use write::MachineArchive;

const DESCRIPTION: &str = "machine.json";
const SETUP_SCRIPT: &str = "setup.sh";
const BASE: &str = "base.ext4";
const IMAGE: &str = "image.tar";
