//! One layer's changes (image-spec, layer.md, "Applying Changesets").

use std::io::{self, Read};

use container_ext4::{Metadata, Special, Timestamp, Writer, is_known_xattr};

use super::{
    UnpackError,
    error::is_full,
    limits::{Budget, TooMuch},
};
use crate::tar::{self, Kind, Member, TarError};

const WHITEOUT: &[u8] = b".wh.";
/// What AUFS kept its own files under; one of them has a meaning in images.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes the changes to the disk. They go over all that was written before. What they take of
/// the image's budget is gone from it.
pub(crate) fn apply(
    disk: &mut Writer,
    archive: impl Read,
    budget: &mut Budget,
) -> Result<(), UnpackError> {
    disk.begin_layer();
    let (archive, mut entries) = budget.bound(archive);
    let mut archive = tar::Archive::new(archive);
    let mut last = Vec::new();
    loop {
        let next = archive.next().map_err(|error| unreadable(error, &last))?;
        let Some(member) = next else { break };
        entries.take()?;
        archive.source().ensure_room(archive.stored())?;
        change(disk, &member, &mut archive)?;
        last = member.path;
    }
    archive.drain().map_err(|error| unreadable(error, &last))
}

fn change<R: Read>(
    disk: &mut Writer,
    member: &Member,
    archive: &mut tar::Archive<R>,
) -> Result<(), UnpackError> {
    // A name is a mark whatever it is the name of, as other programs have it.
    let path = member.path.strip_suffix(b"/").unwrap_or(&member.path);
    let name = path.rsplit(|byte| *byte == b'/').next();
    let name = name.unwrap_or_default();
    let directory = &path[..path.len() - name.len()];
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
        write(disk, member, archive)?;
    }
    Ok(())
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
        Kind::File(_) => disk.file_with_holes(path, &metadata, &mut archive.content())?,
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
        mode: match member.kind {
            // Linux knows no other, whatever an archive says.
            Kind::Symlink(_) => 0o777,
            _ => member.mode as _,
        },
        uid: member.uid,
        gid: member.gid,
        mtime: Timestamp {
            seconds: member.mtime.seconds,
            nanoseconds: member.mtime.nanoseconds,
        },
        // What only another system knows means nothing here.
        xattrs: member
            .xattrs
            .iter()
            .filter(|(name, _)| is_known_xattr(name))
            .cloned()
            .collect(),
    }
}

/// `last` is the member that was read before.
fn unreadable(error: TarError, last: &[u8]) -> UnpackError {
    if let Some(too_much) = cause(&error) {
        return UnpackError::TooMuch(too_much);
    }
    UnpackError::Tar {
        place: match last {
            b"" => "at its beginning".to_owned(),
            last => format!(
                "at or behind {}",
                String::from_utf8_lossy(last).escape_debug()
            ),
        },
        source: error,
    }
}

impl From<container_ext4::Error> for UnpackError {
    fn from(error: container_ext4::Error) -> UnpackError {
        if let Some(too_much) = cause(&error) {
            return UnpackError::TooMuch(too_much);
        }
        let mut this: Option<&dyn std::error::Error> = Some(&error);
        while let Some(source) = this {
            if source.downcast_ref().is_some_and(is_full) {
                return UnpackError::DiskFull;
            }
            this = source.source();
        }
        UnpackError::FileSystem(error)
    }
}

/// What an error was caused by, if that is of this kind.
fn cause(error: &(dyn std::error::Error + 'static)) -> Option<TooMuch> {
    let mut this = Some(error);
    while let Some(error) = this {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref()) {
            return Some(*found);
        }
        this = error.source();
    }
    None
}
