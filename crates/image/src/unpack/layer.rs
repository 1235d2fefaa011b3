//! Applying one layer's changes to a file system (image-spec, layer.md, "Applying Changesets").

use std::io::{self, Read};

use container_ext4::{Metadata, SpecialFile, Timestamp, Writer, is_known_xattr};

use super::{
    UnpackError,
    error::is_full,
    limits::{Budget, LimitExceeded},
};
use crate::tar::{Member, MemberKind, TarError, TarReader};

const WHITEOUT: &[u8] = b".wh.";
/// Prefix of AUFS's own files. Only the one for opaque directories has a meaning in images.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Applies a layer's archive over everything that was written before, within the image's budget.
pub(crate) fn apply(
    disk: &mut Writer,
    archive: impl Read,
    budget: &mut Budget,
) -> Result<(), UnpackError> {
    disk.begin_layer();
    let (archive, mut members) = budget.bound(archive);
    let mut archive = TarReader::new(archive);
    let mut last = Vec::new();
    loop {
        let next = archive.next().map_err(|error| unreadable(error, &last))?;
        let Some(member) = next else { break };
        members.add_one()?;
        archive.source().check_room(archive.stored())?;
        apply_member(disk, &member, &mut archive)?;
        last = member.path;
    }
    archive.drain().map_err(|error| unreadable(error, &last))
}

fn apply_member<R: Read>(
    disk: &mut Writer,
    member: &Member,
    archive: &mut TarReader<R>,
) -> Result<(), UnpackError> {
    // A whiteout is recognized by its name alone, whatever its type, as in other programs. The
    // specification says "an empty file".
    let path = member.path.strip_suffix(b"/").unwrap_or(&member.path);
    let name = path.rsplit(|byte| *byte == b'/').next();
    let name = name.unwrap_or_default();
    let directory = &path[..path.len() - name.len()];
    if name == OPAQUE {
        disk.make_opaque(directory)?;
    } else if name.starts_with(AUFS) {
        tracing::debug!("AUFS file {} ignored", member.path.escape_ascii());
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
    archive: &mut TarReader<R>,
) -> Result<(), UnpackError> {
    let path = &member.path;
    let metadata = metadata(member);
    match &member.kind {
        MemberKind::Directory => disk.directory(path, &metadata)?,
        MemberKind::File(_) => disk.file_with_holes(path, &metadata, &mut archive.contents())?,
        MemberKind::Symlink(target) => disk.symlink(path, &metadata, target)?,
        MemberKind::HardLink(target) => disk.hard_link(path, target)?,
        MemberKind::CharDevice { major, minor } => {
            let (major, minor) = (*major, *minor);
            disk.special(path, &metadata, SpecialFile::CharDevice { major, minor })?;
        }
        MemberKind::BlockDevice { major, minor } => {
            let (major, minor) = (*major, *minor);
            disk.special(path, &metadata, SpecialFile::BlockDevice { major, minor })?;
        }
        MemberKind::Fifo => disk.special(path, &metadata, SpecialFile::Fifo)?,
    }
    Ok(())
}

fn metadata(member: &Member) -> Metadata {
    Metadata {
        mode: match member.kind {
            // Linux ignores a symlink's mode and always shows this one.
            MemberKind::Symlink(_) => 0o777,
            _ => member.mode as _,
        },
        uid: member.uid,
        gid: member.gid,
        mtime: Timestamp {
            seconds: member.mtime.seconds,
            nanoseconds: member.mtime.nanoseconds,
        },
        // Attributes of other systems (`com.apple.…`) cannot be stored on Linux.
        xattrs: member
            .xattrs
            .iter()
            .filter(|(name, _)| is_known_xattr(name))
            .cloned()
            .collect(),
    }
}

/// Converts an error after the member `last` was read.
fn unreadable(error: TarError, last: &[u8]) -> UnpackError {
    if let TarError::Read(error) = &error
        && let Some(exceeded) = find_limit_exceeded(error)
    {
        return UnpackError::LimitExceeded(exceeded);
    }
    UnpackError::Tar {
        place: match last {
            b"" => "at its beginning".to_owned(),
            last => format!(
                "at or after {}",
                String::from_utf8_lossy(last).escape_debug()
            ),
        },
        cause: error,
    }
}

impl From<container_ext4::WriteError> for UnpackError {
    fn from(error: container_ext4::WriteError) -> UnpackError {
        let Some(io_error) = error.io_error() else {
            return UnpackError::FileSystem(error);
        };
        if let Some(exceeded) = find_limit_exceeded(io_error) {
            return UnpackError::LimitExceeded(exceeded);
        }
        let mut this: Option<&dyn std::error::Error> = Some(io_error);
        while let Some(source) = this {
            if source.downcast_ref().is_some_and(is_full) {
                return UnpackError::DiskFull;
            }
            this = source.source();
        }
        UnpackError::FileSystem(error)
    }
}

/// Finds a [`LimitExceeded`] inside an I/O error: readers can only return I/O errors.
fn find_limit_exceeded(error: &io::Error) -> Option<LimitExceeded> {
    let mut this: Option<&(dyn std::error::Error + 'static)> = Some(error);
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
