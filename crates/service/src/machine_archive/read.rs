//! Reading machine archives.
//!
//! Nothing in an archive is trusted: a member must be the expected one and a file, and is written
//! to a path of our choice.

use std::{
    io::{self, BufReader, Read},
    path::Path,
};

use tar::{Archive, Entries, Entry, EntryType};

use super::{BASE, DESCRIPTION, Description, DescriptionError, IMAGE, SETUP_SCRIPT};
use crate::checks::usable_space;

/// Maximum size in bytes of a member that is read into memory.
const MAX_SMALL_MEMBER: u64 = 16 << 20;

/// A machine archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("cannot read the archive: {0}")]
    Read(io::Error),
    #[error(
        "the file is not an exported machine (export one with: container machine export ID -o FILE)"
    )]
    NotAnArchive,
    #[error("cannot use {DESCRIPTION} in the archive: {0}")]
    Description(DescriptionError),
    #[error("the archive is damaged: {expected} is missing")]
    Missing { expected: String },
    #[error("the archive is damaged: {0} is too large")]
    TooLarge(&'static str),
    #[error(
        "{member} in the archive needs {} MiB, and {} MiB can be used on the host's disk",
        needed >> 20, usable >> 20
    )]
    NoSpace {
        member: String,
        needed: u64,
        usable: u64,
    },
}

impl From<io::Error> for ReadError {
    fn from(cause: io::Error) -> ReadError {
        ReadError::Read(cause)
    }
}

type Decoder<R> = zstd::Decoder<'static, BufReader<R>>;

/// Reader of an archive's members, in their order.
pub(crate) struct ArchiveReader<'a, R: Read> {
    entries: Entries<'a, Decoder<R>>,
}

/// Opens an archive for an [`ArchiveReader`].
pub(crate) fn open<R: Read>(source: R) -> Result<Archive<Decoder<R>>, ReadError> {
    Ok(Archive::new(zstd::Decoder::new(source)?))
}

impl<'a, R: Read> ArchiveReader<'a, R> {
    /// Reads the description.
    pub(crate) fn new(
        archive: &'a mut Archive<Decoder<R>>,
    ) -> Result<(ArchiveReader<'a, R>, Description), ReadError> {
        let mut entries = archive.entries().map_err(|_| ReadError::NotAnArchive)?;
        let first = entries.next().and_then(Result::ok);
        let first = first.filter(|entry| is_file(entry, DESCRIPTION));
        let mut first = first.ok_or(ReadError::NotAnArchive)?;
        let json = read_small(&mut first, DESCRIPTION)?;
        let description = Description::parse(&json).map_err(ReadError::Description)?;
        Ok((ArchiveReader { entries }, description))
    }

    /// Reads the set-up script.
    pub(crate) fn setup_script(&mut self) -> Result<Vec<u8>, ReadError> {
        read_small(&mut self.next(SETUP_SCRIPT)?, SETUP_SCRIPT)
    }

    /// Writes a layer of the disk to a path.
    pub(crate) fn layer(&mut self, name: &str, to: &Path) -> Result<(), ReadError> {
        self.unpack(name, to)
    }

    /// Writes the base to a path, as a sparse file.
    pub(crate) fn base(&mut self, to: &Path) -> Result<(), ReadError> {
        self.unpack(BASE, to)
    }

    /// Returns a reader of the image's archive, which fits in a directory.
    pub(crate) fn image(&mut self, directory: &Path) -> Result<impl Read, ReadError> {
        let entry = self.next(IMAGE)?;
        check_space(&entry, IMAGE, directory)?;
        Ok(entry)
    }

    fn unpack(&mut self, name: &str, to: &Path) -> Result<(), ReadError> {
        let mut entry = self.next(name)?;
        check_space(&entry, name, to.parent().unwrap_or(to))?;
        Ok(entry.unpack(to).map(drop)?)
    }

    fn next(&mut self, name: &str) -> Result<Entry<'a, Decoder<R>>, ReadError> {
        match self.entries.next().transpose()? {
            Some(entry) if is_file(&entry, name) => Ok(entry),
            _ => Err(ReadError::Missing {
                expected: name.to_owned(),
            }),
        }
    }
}

/// Reads the rest of an archive, so that its checksum is compared.
pub(crate) fn finish<R: Read>(archive: Archive<Decoder<R>>) -> Result<(), ReadError> {
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

/// Refuses a member that does not fit in a directory: an archive that is damaged or hostile must
/// not fill the host's disk. No more than the size in the member's header is read.
fn check_space<R: Read>(
    entry: &Entry<'_, R>,
    member: &str,
    directory: &Path,
) -> Result<(), ReadError> {
    let header = entry.header();
    let needed = if header.entry_type() == EntryType::GNUSparse {
        // Without the holes.
        header.entry_size()?
    } else {
        entry.size()
    };
    match usable_space(directory) {
        Some(usable) if needed > usable => Err(ReadError::NoSpace {
            member: member.to_owned(),
            needed,
            usable,
        }),
        _ => Ok(()),
    }
}

fn is_file<R: Read>(entry: &Entry<'_, R>, name: &str) -> bool {
    let kind = entry.header().entry_type();
    (kind == EntryType::Regular || kind == EntryType::GNUSparse)
        && entry.path_bytes() == name.as_bytes()
}

fn read_small(entry: &mut impl Read, name: &'static str) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    entry.take(MAX_SMALL_MEMBER + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SMALL_MEMBER {
        return Err(ReadError::TooLarge(name));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Write,
    };

    use tar::{Builder, Header};

    use super::*;

    /// Reads the only member of an archive, a layer.
    fn read(tar: Builder<Vec<u8>>, to: &Path) -> Result<(), ReadError> {
        let tar = zstd::encode_all(tar.into_inner().unwrap().as_slice(), 1).unwrap();
        let mut archive = open(tar.as_slice()).unwrap();
        let entries = archive.entries().unwrap();
        ArchiveReader { entries }.layer("layer", to)
    }

    #[test]
    fn a_member_that_does_not_fit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("layer");
        let mut header = Header::new_gnu();
        header.set_size(1 << 50);
        let mut tar = Builder::new(Vec::new());
        // The size in the header is not compared with what follows.
        tar.append_data(&mut header, "layer", &b"data"[..]).unwrap();
        let refused = read(tar, &to).unwrap_err();
        assert!(matches!(refused, ReadError::NoSpace { .. }), "{refused}");
        assert!(!to.exists());
    }

    #[test]
    fn holes_need_no_space() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let mut file = File::create(&from).unwrap();
        file.write_all(b"data").unwrap();
        file.set_len(1 << 40).unwrap();
        let mut tar = Builder::new(Vec::new());
        tar.append_file("layer", &mut File::open(&from).unwrap())
            .unwrap();
        read(tar, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().len(), 1 << 40);
    }
}
