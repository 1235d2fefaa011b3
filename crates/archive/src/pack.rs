//! A tree of files, written as a tar stream.

use std::{
    fs::{self, File, FileType, Metadata},
    io::{self, Read, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use tar::{Builder, Header, HeaderMode};

use crate::ArchiveError;

/// What the stream's entries are named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// A directory's contents, below `.`; a file by its name.
    Itself,
    /// The directory or file by its name, as `tar -c NAME` does.
    Named,
}

/// Writes `path`, symlinks to it followed, with all that is below it. `note` hears what cannot be
/// copied: the rest is, and the outcome is [`ArchiveError::Incomplete`] if that is a loss.
pub fn pack(
    path: &Path,
    root: Root,
    to: impl Write,
    note: &mut dyn FnMut(String),
) -> Result<(), ArchiveError> {
    let about = fs::metadata(path).map_err(ArchiveError::file("reading", path))?;
    if !about.is_dir() && !about.is_file() {
        let reason = kind(about.file_type());
        return Err(ArchiveError::Refused {
            path: path.to_owned(),
            reason,
        });
    }
    let name = match root {
        Root::Itself if about.is_dir() => PathBuf::from("."),
        Root::Itself | Root::Named => name_of(path)?,
    };
    let mut packing = Packing {
        builder: Builder::new(to),
        note,
        is_complete: true,
    };
    packing.add(path, &name, &about)?;
    let mut to = packing.builder.into_inner().map_err(ArchiveError::Write)?;
    to.flush().map_err(ArchiveError::Write)?;
    match packing.is_complete {
        true => Ok(()),
        false => Err(ArchiveError::Incomplete),
    }
}

/// The last part of a path, which `.` and `..` get from the directory that they are.
fn name_of(path: &Path) -> Result<PathBuf, ArchiveError> {
    if let Some(name) = path.file_name() {
        return Ok(name.into());
    }
    let path = fs::canonicalize(path).map_err(ArchiveError::file("reading", path))?;
    Ok(path.file_name().map_or_else(|| ".".into(), PathBuf::from))
}

struct Packing<'a, W: Write> {
    builder: Builder<W>,
    note: &'a mut dyn FnMut(String),
    is_complete: bool,
}

impl<W: Write> Packing<'_, W> {
    fn add(&mut self, path: &Path, name: &Path, about: &Metadata) -> Result<(), ArchiveError> {
        if about.is_dir() {
            self.add_directory(path, name, about)
        } else if about.is_symlink() {
            match fs::read_link(path) {
                Ok(target) => {
                    let mut header = header(about);
                    header.set_size(0);
                    self.builder
                        .append_link(&mut header, name, target)
                        .map_err(ArchiveError::Write)
                }
                Err(error) => self.left_out(path, &error),
            }
        } else if about.is_file() {
            match File::open(path).and_then(|file| Ok((file.metadata()?, file))) {
                Ok((about, file)) => self.add_file(file, name, &about),
                Err(error) => self.left_out(path, &error),
            }
        } else {
            let kind = kind(about.file_type());
            (self.note)(format!("{} is left out: {kind}", path.display()));
            Ok(())
        }
    }

    fn add_directory(
        &mut self,
        path: &Path,
        name: &Path,
        about: &Metadata,
    ) -> Result<(), ArchiveError> {
        self.append(header(about), name, io::empty())?;
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.left_out(path, &error),
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            match entry.metadata() {
                Ok(about) => self.add(&path, &name.join(entry.file_name()), &about)?,
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.left_out(&path, &error)?,
            }
        }
        Ok(())
    }

    /// A file that changes its size meanwhile is cut off or filled up with zeroes: the stream has
    /// promised a size.
    fn add_file(&mut self, file: File, name: &Path, about: &Metadata) -> Result<(), ArchiveError> {
        let contents = file.chain(io::repeat(0)).take(about.len());
        self.append(header(about), name, contents)
    }

    fn append(
        &mut self,
        mut header: Header,
        name: &Path,
        contents: impl Read,
    ) -> Result<(), ArchiveError> {
        self.builder
            .append_data(&mut header, name, contents)
            .map_err(ArchiveError::Write)
    }

    fn left_out(&mut self, path: &Path, error: &io::Error) -> Result<(), ArchiveError> {
        (self.note)(format!("{} is left out: {error}", path.display()));
        self.is_complete = false;
        Ok(())
    }
}

fn header(about: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata_in_mode(about, HeaderMode::Complete);
    if !about.is_file() {
        header.set_size(0);
    }
    header
}

fn kind(file_type: FileType) -> &'static str {
    if file_type.is_socket() {
        "it is a socket"
    } else if file_type.is_fifo() {
        "it is a named pipe"
    } else {
        "it is a device"
    }
}
