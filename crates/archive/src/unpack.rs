//! A tar stream, turned into files.

use std::{
    error::Error,
    ffi::OsString,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use tar::{Archive, Entry, EntryType};

use crate::ArchiveError;

/// What a stream is to its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// A copy of one file or directory, as [`Root::Itself`](crate::Root::Itself) packs it. In a
    /// directory that is there it gets this name; without a name a directory's contents go there.
    Copy {
        /// The source's own name.
        name: Option<OsString>,
    },
    /// Any tar stream, unpacked in a directory that is there.
    Tar,
}

/// Unpacks a stream at `destination`. `note` hears what is left out. Nothing is written outside
/// the destination, whatever the stream says.
pub fn unpack(
    from: impl Read,
    destination: &Path,
    arrival: &Arrival,
    note: &mut dyn FnMut(String),
) -> Result<(), ArchiveError> {
    let mut archive = Archive::new(from);
    unpack_archive(&mut archive, destination, arrival, note)?;
    // Whoever writes the stream is not done before its padding is read.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(ArchiveError::Stream)?;
    Ok(())
}

fn unpack_archive(
    archive: &mut Archive<impl Read>,
    destination: &Path,
    arrival: &Arrival,
    note: &mut dyn FnMut(String),
) -> Result<(), ArchiveError> {
    let mut entries = archive.entries().map_err(ArchiveError::Stream)?.peekable();
    let is_directory = match entries.peek() {
        Some(Ok(first)) => first.header().entry_type().is_dir(),
        // It is told below.
        Some(Err(_)) => true,
        // Whoever packs has told why there is nothing.
        None => return Ok(()),
    };
    match arrival {
        Arrival::Copy { name } if !is_directory => {
            let target = target_of_file(destination, name.as_ref())?;
            if let Some(entry) = entries.next() {
                let mut entry = entry.map_err(ArchiveError::Stream)?;
                entry.set_preserve_permissions(false);
                write_file(&mut entry, &target)
                    .map_err(innermost)
                    .map_err(ArchiveError::file("writing", &target))?;
            }
            Ok(())
        }
        Arrival::Copy { name } => {
            let (target, is_new) = target_of_directory(destination, name.as_ref())?;
            // A directory that is there keeps its own mode.
            let is_wanted = |entry: &io::Result<Entry<'_, _>>| {
                is_new || entry.as_ref().map_or(true, |entry| !is_root(entry))
            };
            unpack_all(entries.filter(is_wanted), &target, note)
        }
        Arrival::Tar if destination.is_dir() => unpack_all(entries, destination, note),
        Arrival::Tar if !destination.exists() => refused(destination, "there is no such directory"),
        Arrival::Tar => refused(destination, "it is not a directory"),
    }
}

/// Writes a file beside its place and moves it there, so that one that is there already is replaced
/// by the whole of it or stays. What is no file, a device or a pipe, is written into.
fn write_file<R: Read>(entry: &mut Entry<'_, R>, target: &Path) -> io::Result<()> {
    if fs::metadata(target).is_ok_and(|about| !about.is_file()) {
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

/// Where a file goes.
fn target_of_file(destination: &Path, name: Option<&OsString>) -> Result<PathBuf, ArchiveError> {
    if destination.is_dir() {
        let target = name.map(|name| destination.join(name));
        let target = target.unwrap_or_else(|| destination.to_owned());
        return match target.is_dir() {
            true => refused(
                &target,
                "a directory is there, and a file would take its place",
            ),
            false => Ok(target),
        };
    }
    if ends_with_slash(destination) {
        return refused(destination, "there is no such directory");
    }
    // A link leads to the file that is meant.
    if let Ok(target) = fs::canonicalize(destination) {
        return Ok(target);
    }
    ensure_parent(destination)?;
    Ok(destination.to_owned())
}

/// Where a directory goes, and whether it had to be made there.
fn target_of_directory(
    destination: &Path,
    name: Option<&OsString>,
) -> Result<(PathBuf, bool), ArchiveError> {
    let target = match name {
        Some(name) if destination.is_dir() => destination.join(name),
        _ => destination.to_owned(),
    };
    if target != destination && target.is_symlink() {
        return refused(
            &target,
            "a link is there, and a directory would take its place",
        );
    }
    if target.is_dir() {
        return Ok((target, false));
    }
    if target.symlink_metadata().is_ok() {
        return refused(&target, "it is there and is not a directory");
    }
    ensure_parent(&target)?;
    fs::create_dir(&target).map_err(ArchiveError::file("making", &target))?;
    Ok((target, true))
}

fn ensure_parent(path: &Path) -> Result<(), ArchiveError> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if parent.exists() && !parent.is_dir() => {
            refused(parent, "it is not a directory")
        }
        Some(parent) if !parent.is_dir() => refused(parent, "there is no such directory"),
        _ => Ok(()),
    }
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn refused<T>(path: &Path, reason: &'static str) -> Result<T, ArchiveError> {
    Err(ArchiveError::Refused {
        path: path.to_owned(),
        reason,
    })
}

/// Unpacks entries below `target`. Directories come last, deepest first: their modes and times
/// must not be in the way of what goes into them.
fn unpack_all<'a, R: Read + 'a>(
    entries: impl Iterator<Item = io::Result<Entry<'a, R>>>,
    target: &Path,
    note: &mut dyn FnMut(String),
) -> Result<(), ArchiveError> {
    let mut directories = Vec::new();
    for entry in entries {
        let mut entry = entry.map_err(ArchiveError::Stream)?;
        entry.set_preserve_permissions(false);
        match entry.header().entry_type() {
            EntryType::Directory => directories.push(entry),
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Symlink
            | EntryType::Link => place(&mut entry, target, note)?,
            _ => note(format!(
                "{} is left out: it is no file, directory or link",
                path_of(&entry).display()
            )),
        }
    }
    directories.sort_by(|one, other| other.path_bytes().cmp(&one.path_bytes()));
    for mut directory in directories {
        place(&mut directory, target, note)?;
    }
    Ok(())
}

fn place<R: Read>(
    entry: &mut Entry<'_, R>,
    directory: &Path,
    note: &mut dyn FnMut(String),
) -> Result<(), ArchiveError> {
    let path = path_of(entry);
    let mut placed = entry.unpack_in(directory);
    let target = directory.join(&path);
    // As for any other file, what is there makes room. It lies inside: that was looked at first.
    let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
    if entry.header().entry_type().is_hard_link()
        && placed.as_ref().is_err_and(is_taken)
        && fs::remove_file(&target).is_ok()
    {
        placed = entry.unpack_in(directory);
    }
    let failed = ArchiveError::file("writing", &target);
    match placed.map_err(innermost).map_err(failed)? {
        true => {}
        false => note(format!(
            "{} is left out: it lies outside the archive",
            path.display()
        )),
    }
    Ok(())
}

/// The reason itself: the library's own words around it name what is named already.
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
