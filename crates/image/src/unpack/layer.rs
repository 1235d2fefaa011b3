//! One layer's changes (image-spec, layer.md, "Applying Changesets").

use std::io::Read;

use container_ext4::{Metadata, Special, Timestamp, Writer};

use super::{UnpackError, error::is_full};
use crate::tar::{self, Kind, Member, TarError};

const WHITEOUT: &[u8] = b".wh.";
/// What AUFS kept its own files under; one of them has a meaning in images.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes the changes to the disk. They go over all that was written before.
pub(super) fn apply(disk: &mut Writer, archive: impl Read) -> Result<(), UnpackError> {
    disk.begin_layer();
    let mut archive = tar::Archive::new(archive);
    while let Some(member) = archive.next().map_err(unreadable)? {
        let name = member.path.rsplit(|byte| *byte == b'/').next();
        let name = name.unwrap_or_default();
        let directory = &member.path[..member.path.len() - name.len()];
        if name == OPAQUE {
            disk.make_opaque(directory)?;
        } else if name.starts_with(AUFS) {
            tracing::debug!("leaving out {}", member.path.escape_ascii());
        } else if let Some(removed) = name.strip_prefix(WHITEOUT) {
            if matches!(removed, b"" | b"." | b"..") {
                return Err(UnpackError::Whiteout {
                    path: member.path.escape_ascii().to_string(),
                });
            }
            disk.white_out(&[directory, removed].concat())?;
        } else {
            write(disk, &member, &mut archive)?;
        }
    }
    archive.drain().map_err(unreadable)
}

fn write<R: Read>(
    disk: &mut Writer,
    member: &Member,
    archive: &mut tar::Archive<R>,
) -> Result<(), UnpackError> {
    let path = &member.path;
    let metadata = metadata(member);
    match &member.kind {
        Kind::Directory => disk.directory(path, &metadata)?,
        Kind::File(_) => disk.file(path, &metadata, &mut archive.content())?,
        Kind::Symlink(target) => disk.symlink(path, &metadata, target)?,
        Kind::HardLink(target) => disk.hard_link(path, target)?,
        Kind::CharDevice { major, minor } => {
            let (major, minor) = (*major, *minor);
            disk.special(path, &metadata, Special::CharDevice { major, minor })?;
        }
        Kind::BlockDevice { major, minor } => {
            let (major, minor) = (*major, *minor);
            disk.special(path, &metadata, Special::BlockDevice { major, minor })?;
        }
        Kind::Fifo => disk.special(path, &metadata, Special::Fifo)?,
    }
    Ok(())
}

fn metadata(member: &Member) -> Metadata {
    Metadata {
        mode: member.mode as _,
        uid: member.uid,
        gid: member.gid,
        mtime: Timestamp {
            seconds: member.mtime.seconds,
            nanoseconds: member.mtime.nanoseconds,
        },
        xattrs: member.xattrs.clone(),
    }
}

fn unreadable(error: TarError) -> UnpackError {
    UnpackError::Tar(error)
}

impl From<container_ext4::Error> for UnpackError {
    fn from(error: container_ext4::Error) -> UnpackError {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(this) = cause {
            if this.downcast_ref().is_some_and(is_full) {
                return UnpackError::DiskFull;
            }
            cause = this.source();
        }
        UnpackError::FileSystem(error)
    }
}
