//! Writing a tree of files as a tar stream.

use std::{
    fs::{self, File, FileType, Metadata},
    io::{self, Read, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use tar::{Builder, Header, HeaderMode};

use crate::{CopyError, shown};

/// Name of the stream's first entry, which all others are below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootName {
    /// `.` for a directory; a file has its own name.
    Dot,
    /// The last component of the path, as `tar -c NAME` does.
    Own,
}

/// Writes `path` and everything below it as a tar stream. Follows `path` if it is a symlink;
/// symlinks below it are copied as symlinks. `note` receives a message for each file that is
/// skipped.
///
/// # Errors
/// [`CopyError`]. [`CopyError::Incomplete`] if files could not be read; the stream has all others.
pub fn pack(
    path: &Path,
    root: RootName,
    to: impl Write,
    note: &mut dyn FnMut(String),
) -> Result<(), CopyError> {
    let metadata = fs::metadata(path).map_err(CopyError::file("read", path))?;
    if !metadata.is_dir() && !metadata.is_file() {
        let reason = kind(metadata.file_type());
        return Err(CopyError::Refused {
            path: path.to_owned(),
            reason,
        });
    }
    let name = match root {
        RootName::Dot if metadata.is_dir() => PathBuf::from("."),
        RootName::Dot | RootName::Own => name_of(path)?,
    };
    let mut packer = Packer {
        builder: Builder::new(to),
        note,
        is_complete: true,
    };
    packer.add(path, &name, &metadata)?;
    let mut to = packer.builder.into_inner().map_err(CopyError::Write)?;
    to.flush().map_err(CopyError::Write)?;
    if !packer.is_complete {
        return Err(CopyError::Incomplete);
    }
    Ok(())
}

/// Returns the last component of a path, after resolving `.` and `..`.
fn name_of(path: &Path) -> Result<PathBuf, CopyError> {
    if let Some(name) = path.file_name() {
        return Ok(name.into());
    }
    let path = fs::canonicalize(path).map_err(CopyError::file("read", path))?;
    Ok(path.file_name().map_or_else(|| ".".into(), PathBuf::from))
}

struct Packer<'a, W: Write> {
    builder: Builder<W>,
    note: &'a mut dyn FnMut(String),
    is_complete: bool,
}

impl<W: Write> Packer<'_, W> {
    fn add(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> Result<(), CopyError> {
        if metadata.is_dir() {
            self.add_directory(path, name, metadata)
        } else if metadata.is_symlink() {
            match fs::read_link(path) {
                Ok(target) => {
                    let mut header = header(metadata);
                    header.set_size(0);
                    self.builder
                        .append_link(&mut header, name, target)
                        .map_err(CopyError::Write)
                }
                Err(error) => self.skip_unreadable(path, &error),
            }
        } else if metadata.is_file() {
            match File::open(path).and_then(|file| Ok((file.metadata()?, file))) {
                Ok((metadata, file)) => self.add_file(file, name, &metadata),
                Err(error) => self.skip_unreadable(path, &error),
            }
        } else {
            let kind = kind(metadata.file_type());
            (self.note)(format!("{} skipped: it {kind}", shown(path)));
            Ok(())
        }
    }

    fn add_directory(
        &mut self,
        path: &Path,
        name: &Path,
        metadata: &Metadata,
    ) -> Result<(), CopyError> {
        self.append(header(metadata), name, io::empty())?;
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.skip_unreadable(path, &error),
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            match entry.metadata() {
                Ok(metadata) => self.add(&path, &name.join(entry.file_name()), &metadata)?,
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.skip_unreadable(&path, &error)?,
            }
        }
        Ok(())
    }

    /// Adds a file. If its size changes while it is read, the contents are cut off or padded with
    /// zeroes, since the header states the size.
    fn add_file(&mut self, file: File, name: &Path, metadata: &Metadata) -> Result<(), CopyError> {
        let contents = file.chain(io::repeat(0)).take(metadata.len());
        self.append(header(metadata), name, contents)
    }

    fn append(
        &mut self,
        mut header: Header,
        name: &Path,
        contents: impl Read,
    ) -> Result<(), CopyError> {
        self.builder
            .append_data(&mut header, name, contents)
            .map_err(CopyError::Write)
    }

    fn skip_unreadable(&mut self, path: &Path, error: &io::Error) -> Result<(), CopyError> {
        (self.note)(format!("{} skipped: {error}", shown(path)));
        self.is_complete = false;
        Ok(())
    }
}

fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata_in_mode(metadata, HeaderMode::Complete);
    if !metadata.is_file() {
        header.set_size(0);
    }
    header
}

fn kind(file_type: FileType) -> &'static str {
    if file_type.is_socket() {
        "is a socket"
    } else if file_type.is_fifo() {
        "is a named pipe"
    } else {
        "is a device"
    }
}
