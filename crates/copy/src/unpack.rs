//! Writing the files of a tar stream.

use std::{
    error::Error,
    ffi::OsString,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use tar::{Archive, Entry, EntryType};

use crate::{CopyError, shown};

/// Form of the stream, and its placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnpackMode {
    /// The stream is a copy of one file or directory, packed with
    /// [`RootName::Dot`](crate::RootName::Dot). If the destination is a directory, the copy gets
    /// this name in it; without a name, a directory's contents are written to the destination
    /// itself.
    Copy {
        /// Name of the source.
        name: Option<OsString>,
    },
    /// The stream is any tar archive. The destination must be an existing directory.
    Tar,
}

/// Unpacks a stream to `destination`, and writes nothing outside it even if the stream is hostile.
/// `note` receives a message for each member that is skipped.
///
/// # Errors
/// [`CopyError`]. Files that were written before the error stay.
pub fn unpack(
    from: impl Read,
    destination: &Path,
    mode: &UnpackMode,
    note: &mut dyn FnMut(String),
) -> Result<(), CopyError> {
    let mut archive = Archive::new(from);
    unpack_archive(&mut archive, destination, mode, note)?;
    // The writer may fail with a broken pipe if the padding at the end is not read.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(CopyError::Stream)?;
    Ok(())
}

fn unpack_archive(
    archive: &mut Archive<impl Read>,
    destination: &Path,
    mode: &UnpackMode,
    note: &mut dyn FnMut(String),
) -> Result<(), CopyError> {
    let mut entries = archive.entries().map_err(CopyError::Stream)?.peekable();
    let is_directory = match entries.peek() {
        Some(Ok(first)) => first.header().entry_type().is_dir(),
        // The error is returned below.
        Some(Err(_)) => true,
        // The packing side has reported why the stream is empty.
        None => return Ok(()),
    };
    match mode {
        UnpackMode::Copy { name } if !is_directory => {
            let target = target_of_file(destination, name.as_ref())?;
            if let Some(entry) = entries.next() {
                let mut entry = entry.map_err(CopyError::Stream)?;
                // A link could lead to any file of this side.
                if !is_file(entry.header().entry_type()) {
                    return refused(
                        &target,
                        "was not written: the other side did not send a regular file",
                    );
                }
                entry.set_preserve_permissions(false);
                write_file(&mut entry, &target)
                    .map_err(innermost)
                    .map_err(CopyError::file("write", &target))?;
            }
            Ok(())
        }
        UnpackMode::Copy { name } => {
            let (target, is_new) = target_of_directory(destination, name.as_ref())?;
            // An existing directory keeps its mode.
            let is_unpacked = |entry: &io::Result<Entry<'_, _>>| {
                is_new || entry.as_ref().map_or(true, |entry| !is_root(entry))
            };
            unpack_all(entries.filter(is_unpacked), &target, note)
        }
        UnpackMode::Tar if destination.is_dir() => unpack_all(entries, destination, note),
        UnpackMode::Tar if !destination.exists() => {
            refused(destination, "not found: no such directory")
        }
        UnpackMode::Tar => refused(destination, "is not a directory"),
    }
}

fn is_file(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
    )
}

/// Writes a file to a temporary directory beside the target and renames it, so that an existing
/// file is replaced atomically. An existing device or pipe is written to instead.
fn write_file<R: Read>(entry: &mut Entry<'_, R>, target: &Path) -> io::Result<()> {
    if fs::metadata(target).is_ok_and(|metadata| !metadata.is_file()) {
        let mut target = fs::File::options().write(true).open(target)?;
        return io::copy(entry, &mut target).map(drop);
    }
    let directory = target
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let beside = tempfile::Builder::new()
        .prefix(".container-cp-")
        .tempdir_in(directory.unwrap_or(Path::new(".")))?;
    let written = beside.path().join("file");
    entry.unpack(&written)?;
    fs::rename(&written, target)
}

/// Returns the path that a file is written to.
fn target_of_file(destination: &Path, name: Option<&OsString>) -> Result<PathBuf, CopyError> {
    if destination.is_dir() {
        let target = name.map(|name| destination.join(name));
        let target = target.unwrap_or_else(|| destination.to_owned());
        if target.is_dir() {
            return refused(&target, "is a directory, which a file cannot replace");
        }
        return Ok(target);
    }
    if ends_with_slash(destination) {
        return refused(destination, "not found: no such directory");
    }
    // The target of a symlink is replaced, not the symlink.
    if let Ok(target) = fs::canonicalize(destination) {
        return Ok(target);
    }
    ensure_parent(destination)?;
    Ok(destination.to_owned())
}

/// Returns the path that a directory is written to, and whether it was created.
fn target_of_directory(
    destination: &Path,
    name: Option<&OsString>,
) -> Result<(PathBuf, bool), CopyError> {
    let target = match name {
        Some(name) if destination.is_dir() => destination.join(name),
        _ => destination.to_owned(),
    };
    if target != destination && target.is_symlink() {
        return refused(&target, "is a symlink, which a directory cannot replace");
    }
    if target.is_dir() {
        return Ok((target, false));
    }
    if target.symlink_metadata().is_ok() {
        return refused(&target, "exists and is not a directory");
    }
    ensure_parent(&target)?;
    fs::create_dir(&target).map_err(CopyError::file("create", &target))?;
    Ok((target, true))
}

fn ensure_parent(path: &Path) -> Result<(), CopyError> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if parent.exists() && !parent.is_dir() => {
            refused(parent, "is not a directory")
        }
        Some(parent) if !parent.is_dir() => refused(parent, "not found: no such directory"),
        _ => Ok(()),
    }
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn refused<T>(path: &Path, reason: &'static str) -> Result<T, CopyError> {
    Err(CopyError::Refused {
        path: path.to_owned(),
        reason,
    })
}

/// Unpacks entries below `target`. Directories are unpacked last, deepest first: a read-only mode
/// would prevent writing into them, and writing into them would change their timestamps.
fn unpack_all<'a, R: Read + 'a>(
    entries: impl Iterator<Item = io::Result<Entry<'a, R>>>,
    target: &Path,
    note: &mut dyn FnMut(String),
) -> Result<(), CopyError> {
    let mut directories = Vec::new();
    for entry in entries {
        let mut entry = entry.map_err(CopyError::Stream)?;
        entry.set_preserve_permissions(false);
        match entry.header().entry_type() {
            EntryType::Directory => directories.push(entry),
            EntryType::Symlink | EntryType::Link => unpack_entry(&mut entry, target, note)?,
            kind if is_file(kind) => unpack_entry(&mut entry, target, note)?,
            _ => note(format!(
                "{} skipped: it is not a file, directory or link",
                shown(&path_of(&entry))
            )),
        }
    }
    directories.sort_by(|one, other| other.path_bytes().cmp(&one.path_bytes()));
    for mut directory in directories {
        unpack_entry(&mut directory, target, note)?;
    }
    Ok(())
}

fn unpack_entry<R: Read>(
    entry: &mut Entry<'_, R>,
    directory: &Path,
    note: &mut dyn FnMut(String),
) -> Result<(), CopyError> {
    let path = path_of(entry);
    let mut unpacked = entry.unpack_in(directory);
    let target = directory.join(&path);
    // The library replaces existing files, but not with hard links. Removing the file is safe: the
    // library has checked that the path is inside `directory`.
    let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
    if entry.header().entry_type().is_hard_link()
        && unpacked.as_ref().is_err_and(is_taken)
        && fs::remove_file(&target).is_ok()
    {
        unpacked = entry.unpack_in(directory);
    }
    let failed = CopyError::file("write", &target);
    let is_inside = unpacked.map_err(innermost).map_err(failed)?;
    if !is_inside {
        note(format!(
            "{} skipped: it would be outside the destination",
            shown(&path)
        ));
    }
    Ok(())
}

/// Returns the innermost cause. The library wraps it in messages that repeat the path.
fn innermost(error: io::Error) -> io::Error {
    let mut cause: &dyn Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    io::Error::new(error.kind(), cause.to_string())
}

fn is_root<R: Read>(entry: &Entry<'_, R>) -> bool {
    path_of(entry) == Path::new(".")
}

fn path_of<R: Read>(entry: &Entry<'_, R>) -> PathBuf {
    entry.path().map(Into::into).unwrap_or_default()
}
