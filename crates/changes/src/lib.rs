//! What differs between an image and a machine that was made from it, as the archive of a layer
//! (image-spec, layer.md, "Representing Changes").
//!
//! The host knows the disk that the machine began with, the base; the guest sees what has become
//! of it. So the host sends a [listing](write_listing) of the base, the guest [packs](pack) what
//! differs from it, and the host reads an [`Archive`]. Both stream, and neither side holds more of
//! it than the names of a few directories at a time.
//!
//! An entry is as it was exactly if the base has that name with the same inode, last changed at
//! the same time. The kernel sets that time to now with every change of an inode, its contents,
//! attributes and links, and lets nobody set it to another. The inode's number is compared as
//! well because of what was moved: in an image whose files all have one time, a directory that
//! took another one's place would be taken for that one.
//!
//! | left out | because |
//! |---|---|
//! | `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`, `/var/host-services` | each machine writes its own |
//! | `/etc/machine-id` | each machine has its own; an empty one is put in its place, so that the next boot makes one and yet counts as no first boot (machine-id(5)) |
//! | `/var/lib/dbus/machine-id`, unless it is a link | as above |
//! | `/var/lib/systemd/random-seed`, `/var/lib/systemd/credential.secret` | must be nobody else's |
//! | what is in `/var/log/journal` | belongs to the machine with that id |
//! | swap files | memory that lies on the disk |
//! | sockets | an archive has none |
//! | what is mounted | only the disk is read, also what mounts hide of it |

mod archive;
mod error;
mod listing;
mod member;
mod own;
mod walk;

pub use archive::{Archive, refuse};
pub use error::ChangesError;
pub use listing::{Entry, Time, write_listing};
pub use walk::pack;
